"""``python -m tidegate.deployer``."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Final

import structlog

from tidegate.contracts.codec import Event
from tidegate.contracts.principals import DEPLOYER_PRINCIPAL
from tidegate.contracts.topics import TOPICS
from tidegate.core.bus import EventProducer
from tidegate.core.channels import open_aio_channel
from tidegate.core.clock import utc_now
from tidegate.core.errors import InvalidInput, Unavailable
from tidegate.core.grpc_server import GrpcServer
from tidegate.core.in_hand import InHand
from tidegate.core.process import first_of, run, until_signal
from tidegate.core.settings import AccessSettings, CallerSettings, KafkaSettings
from tidegate.core.telemetry import start_telemetry
from tidegate.deployer.agents import SOURCE
from tidegate.deployer.follower import Follower
from tidegate.deployer.gateway_callers import read_gateway_callers
from tidegate.deployer.group import WorkerGroup
from tidegate.deployer.hosts import LiveHost
from tidegate.deployer.service import RolloutServicer, command_event_id
from tidegate.deployer.settings import DeployerSettings
from tidegate.deployer.store import RolloutBook
from tidegate.deployer.xds import ProxyFleet
from tidegate.v1.rollout_events_pb2 import RolloutCommand, RouteTable
from tidegate.v1.rollout_service_pb2_grpc import add_RolloutServiceServicer_to_server

SERVICE_NAME: Final = "tidegate.v1.RolloutService"
START_RETRY_S: Final = 0.5

log = structlog.get_logger(__name__)


async def tick(group: WorkerGroup, period_s: float) -> None:
    """Let time enter every ``period_s`` seconds, until cancelled."""
    while True:
        await asyncio.sleep(period_s)
        group.tick()


async def serve() -> None:
    """Put the parts together and run until a signal asks to stop."""
    settings, kafka = DeployerSettings(), KafkaSettings()
    start_telemetry("deployer", settings)
    while True:
        try:
            async with EventProducer(kafka, client_id="tidegate-deployer") as producer:
                return await until_signal(Deployer(settings, kafka, producer).work())
        except Unavailable as error:
            if error.code != "BROKER_UNAVAILABLE":
                raise
            log.warning("waiting for the broker", error=str(error))
            await asyncio.sleep(START_RETRY_S)


class Deployer:
    """The parts of one deployer, put together; :meth:`work` runs them."""

    def __init__(self, settings: DeployerSettings, kafka: KafkaSettings, producer: EventProducer) -> None:
        self._settings = settings
        book = RolloutBook()
        self._group = WorkerGroup(
            kafka=kafka,
            producer=producer,
            apply_route=self._apply_route,
            in_hand=InHand(settings.data_dir, DEPLOYER_PRINCIPAL.consumer_group(kafka.topic_prefix)),
        )
        self._fleet = ProxyFleet(
            settings.gateway_host,
            settings.gateway_port,
            lease_s=settings.lease_s,
            callers=read_gateway_callers(settings.gateway_callers_file),
            on_applied=self._group.on_applied,
            on_refused=self._group.on_refused,
        )
        self._host = LiveHost(
            channel=open_aio_channel(settings.modelhost, CallerSettings()),
            runtime=settings.runtime,
            load_timeout_s=settings.load_timeout_s,
            drain_s=self._fleet.drain_s,
            wanted=self._group.wanted,
            owns=self._group.owns,
            tell=self._group.tell,
        )
        self._group.host = self._host
        self._follower = Follower(kafka=kafka, book=book, apply_route=self._apply_route)
        self._server = GrpcServer(service_names=[SERVICE_NAME], access=AccessSettings())
        servicer = RolloutServicer(
            book=book,
            publish=lambda command: _publish(producer, command),
            decided_within_s=settings.decided_within_s,
        )
        add_RolloutServiceServicer_to_server(servicer, self._server.server)
        self._fleet.add_to_server(self._server.server)

    async def work(self) -> None:
        """Run until a part fails or the task is cancelled; what was begun is ended in the reverse order."""
        async with AsyncExitStack() as begun:
            begun.push_async_callback(self._follower.stop)
            # Proxies that reconnect get what is known at that moment, so all tables come first.
            await self._follower.catch_up()
            begun.push_async_callback(self._server.stop)
            await self._server.start(self._settings.host, self._settings.port)
            begun.push_async_callback(self._host.close)
            begun.callback(self._fleet.close)
            begun.push_async_callback(self._group.stop)
            await self._group.start()
            await first_of(
                "the deployer",
                self._follower.run(),
                self._group.run(),
                self._host.run(),
                tick(self._group, self._settings.tick_s),
                self._say_when_ready(),
            )

    async def _say_when_ready(self) -> None:
        await self._group.wait_assigned()
        await self._server.set_ready()
        log.info("deployer ready", port=self._server.port, topics=len(TOPICS))
        await asyncio.Event().wait()

    def _apply_route(self, table: RouteTable, decided: datetime | None) -> None:
        try:
            self._fleet.apply(table, decided_time=decided)
        except InvalidInput as error:
            log.error("route table refused", model=table.model, error=str(error))  # noqa: TRY400  (the line says all)
            self._group.on_refused(table.model, table.epoch, table.revision, str(error))


async def _publish(producer: EventProducer, command: RolloutCommand) -> None:
    event_id = command_event_id(command)
    await producer.publish(
        Event(
            message=command,
            id=event_id,
            source=SOURCE,
            time=utc_now(),
            subject=command.model,
            correlation_id=event_id,
        )
    )


def main() -> None:
    """Run the deployer."""
    run(serve)


if __name__ == "__main__":
    main()
