"""``python -m tidegate.deployer``."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

import structlog

from tidegate.contracts.codec import Event, derived_event_id
from tidegate.contracts.topics import TOPICS
from tidegate.core.bus import EventProducer
from tidegate.core.clock import utc_now
from tidegate.core.errors import InvalidInput, Unavailable
from tidegate.core.grpc_server import GrpcServer
from tidegate.core.process import run, wait_for_signal
from tidegate.core.settings import KafkaSettings
from tidegate.core.telemetry import start_telemetry
from tidegate.deployer.agents import SOURCE
from tidegate.deployer.follower import Follower
from tidegate.deployer.group import WorkerGroup
from tidegate.deployer.hosts import LiveHost
from tidegate.deployer.service import RolloutServicer
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
                return await _serve_with(settings, kafka, producer)
        except Unavailable as error:
            if error.code != "BROKER_UNAVAILABLE":
                raise
            log.warning("waiting for the broker", error=str(error))
            await asyncio.sleep(START_RETRY_S)


async def _serve_with(settings: DeployerSettings, kafka: KafkaSettings, producer: EventProducer) -> None:
    book = RolloutBook()

    def apply_route(table: RouteTable, decided: datetime) -> None:
        try:
            fleet.apply(table, decided_time=decided)
        except InvalidInput as error:
            log.error("route table refused", model=table.model, error=str(error))  # noqa: TRY400  (the line says all)

    group = WorkerGroup(kafka=kafka, producer=producer, apply_route=apply_route)
    fleet = ProxyFleet(
        settings.gateway_host, settings.gateway_port, lease_s=settings.lease_s, on_applied=group.on_applied
    )
    host = LiveHost(
        address=settings.modelhost,
        runtime=settings.runtime,
        load_timeout_s=settings.load_timeout_s,
        wanted=group.wanted,
        owns=group.owns,
        tell=group.tell,
    )
    group.host = host
    follower = Follower(kafka=kafka, book=book, apply_route=apply_route)
    server = GrpcServer(service_names=[SERVICE_NAME])
    servicer = RolloutServicer(book=book, publish=lambda command: _publish(producer, command))
    add_RolloutServiceServicer_to_server(servicer, server.server)
    fleet.add_to_server(server.server)

    await follower.catch_up()
    await server.start(settings.host, settings.port)
    await group.start()
    await group.wait_assigned()
    running = [
        asyncio.create_task(coroutine, name=name)
        for name, coroutine in (
            ("follower", follower.run()),
            ("group", group.run()),
            ("host", host.run()),
            ("tick", tick(group, settings.tick_s)),
        )
    ]
    await server.set_ready()
    log.info("deployer ready", port=server.port, topics=len(TOPICS))
    stop = asyncio.create_task(wait_for_signal(), name="signal")
    done, _ = await asyncio.wait([stop, *running], return_when=asyncio.FIRST_COMPLETED)
    for task in (stop, *running):
        task.cancel()
    await group.stop()
    await follower.stop()
    fleet.close()
    await host.close()
    await server.stop()
    for task in done:
        task.result()


async def _publish(producer: EventProducer, command: RolloutCommand) -> None:
    event_id = derived_event_id("RolloutCommand", command.request_id)
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
