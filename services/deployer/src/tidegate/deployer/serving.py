"""The process: gRPC (RolloutService, ADS, health), the partitions, the model host, and their order at start and end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from tidegate.contracts import codec
from tidegate.core.bus import EventProducer, create_topics
from tidegate.core.clock import utc_now
from tidegate.core.errors import TidegateError
from tidegate.core.grpc_server import GrpcServer
from tidegate.core.process import wait_for_signal
from tidegate.core.settings import KafkaSettings
from tidegate.core.streams import retrying
from tidegate.deployer.agents import Deployer
from tidegate.deployer.hosts import LiveHost
from tidegate.deployer.partition import SOURCE
from tidegate.deployer.service import RolloutServicer
from tidegate.deployer.settings import DeployerSettings
from tidegate.deployer.store import RolloutBook
from tidegate.deployer.xds import ProxyFleet
from tidegate.v1 import rollout_service_pb2
from tidegate.v1.rollout_events_pb2 import RolloutCommand
from tidegate.v1.rollout_service_pb2_grpc import add_RolloutServiceServicer_to_server

SERVICE_NAME = rollout_service_pb2.DESCRIPTOR.services_by_name["RolloutService"].full_name

log = structlog.get_logger(__name__)


async def serve(settings: DeployerSettings, kafka: KafkaSettings) -> None:
    """Run the deployer until a signal asks it to stop.

    Raises:
        Conflict: Another deployer fenced this one.
        Unavailable: The port is taken, or a transaction failed.

    """
    asked = asyncio.create_task(wait_for_signal())
    work = asyncio.create_task(_work(settings, kafka))
    await asyncio.wait({asked, work}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        asked.cancel()
        work.result()
        return
    log.info("stopping", signal=asked.result())
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def _work(settings: DeployerSettings, kafka: KafkaSettings) -> None:
    await retrying(lambda: _topics(kafka), what="topics")
    book = RolloutBook()
    deployer = Deployer(kafka, book=book)
    fleet = ProxyFleet(
        gateway_host=settings.gateway_host,
        gateway_port=settings.gateway_port,
        lease_s=settings.lease_s,
        on_applied=deployer.route_applied,
    )
    deployer.attach(fleet)
    host = LiveHost(
        address=settings.modelhost,
        runtime=settings.runtime,
        load_timeout_s=settings.load_timeout_s,
        wanted=deployer.wanted_servers,
        owns=deployer.owns,
        tell=deployer.server_seen,
    )
    server = GrpcServer(service_names=[SERVICE_NAME])
    fleet.add_to_server(server.server)
    try:
        async with EventProducer(kafka, client_id="tidegate-deployer-commands") as producer:
            servicer = RolloutServicer(book=book, publish=_publisher(producer))
            add_RolloutServiceServicer_to_server(servicer, server.server)
            await _run(settings, deployer, host, server)
    finally:
        fleet.close()
        await server.stop()
        await host.close()


async def _run(settings: DeployerSettings, deployer: Deployer, host: LiveHost, server: GrpcServer) -> None:
    """Routes first, so that a proxy that reconnects misses none; then the port, the partitions and health."""
    caught_up = asyncio.Event()

    async def begin() -> None:
        await caught_up.wait()
        port = await server.start(settings.host, settings.port)
        log.info("listening", host=settings.host, port=port)
        await deployer.consume()

    async def say_healthy() -> None:
        await deployer.assigned.wait()
        await server.set_ready()
        while True:
            deployer.changed.clear()
            host.wake()
            await deployer.changed.wait()

    parts = (deployer.follow(caught_up), begin(), say_healthy(), deployer.tick(settings.tick_s), host.run())
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        raise TidegateError("a part of the deployer ended by itself", code="PART_ENDED")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _publisher(producer: EventProducer) -> Callable[[RolloutCommand], Awaitable[None]]:
    async def publish(command: RolloutCommand) -> None:
        event_id = codec.derived_event_id("RolloutCommand", f"{command.model}|{command.request_id}")
        await producer.publish(
            codec.Event(
                message=command,
                id=event_id,
                source=SOURCE,
                time=utc_now(),
                subject=command.model,
                correlation_id=event_id,
            )
        )

    return publish


async def _topics(kafka: KafkaSettings) -> None:
    await asyncio.to_thread(create_topics, kafka)
