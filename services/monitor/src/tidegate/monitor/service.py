"""The process: the access log service and health on one gRPC server, the judges behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, Final

import structlog
from envoy.service.accesslog.v3 import als_pb2_grpc

from tidegate.contracts.principals import MONITOR_PRINCIPAL
from tidegate.contracts.topics import PREDICTIONS, ROLLOUTS
from tidegate.core.bus import EventProducer, create_topics
from tidegate.core.errors import TidegateError
from tidegate.core.grpc_server import GrpcServer
from tidegate.core.process import wait_for_signal
from tidegate.core.settings import KafkaSettings
from tidegate.core.streams import consume, create_app, retrying
from tidegate.monitor.accesslog import SERVICE_NAME, AccessLogService
from tidegate.monitor.agents import Judging
from tidegate.monitor.batches import Assembler
from tidegate.monitor.publishing import PredictionPublisher, Sequences
from tidegate.monitor.settings import MonitorSettings
from tidegate.monitor.store import SnapshotStore

STOP_WITHIN_S: Final = 5.0

log = structlog.get_logger(__name__)


async def serve(settings: MonitorSettings, kafka: KafkaSettings) -> None:
    """Run the monitor until a signal asks it to stop.

    Raises:
        Unavailable: The port is taken.
        TidegateError: A part of it ended by itself.

    """
    assembler = Assembler()
    server = GrpcServer(service_names=[SERVICE_NAME])
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(AccessLogService(assembler), server.server)
    # The log is taken before Kafka is there: what a proxy sends to nobody is lost.
    port = await server.start(settings.host, settings.port)
    log.info("listening", host=settings.host, port=port)
    asked = asyncio.create_task(wait_for_signal())
    try:
        work = asyncio.create_task(_work(settings, kafka, assembler, server, asked))
        await asyncio.wait({asked, work}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done() and not work.done():
            await _stopped_within(work, STOP_WITHIN_S)
        if work.done() and not work.cancelled():
            work.result()
    finally:
        asked.cancel()
        await server.stop()


async def _stopped_within(work: asyncio.Task[None], seconds: float) -> None:
    done, _ = await asyncio.wait({work}, timeout=seconds)
    if not done:
        work.cancel()
        await asyncio.wait({work})


async def _work(
    settings: MonitorSettings,
    kafka: KafkaSettings,
    assembler: Assembler,
    server: GrpcServer,
    asked: asyncio.Task[str],
) -> None:
    await retrying(lambda: _prepare_topics(kafka), what="topics")
    async with EventProducer(kafka, client_id="tidegate-monitor") as producer:
        sequences = Sequences()
        publisher = PredictionPublisher(
            assembler=assembler, producer=producer, sequences=sequences, slice_s=settings.slice_s
        )
        store = SnapshotStore(kafka, producer)
        judging = Judging(settings=settings, producer=producer, store=store, sequences=sequences)
        app = create_app(MONITOR_PRINCIPAL.consumer_group(kafka.topic_prefix), kafka)
        consume(app, [ROLLOUTS, PREDICTIONS], judging.handle, kafka=kafka, producer=producer)
        _follow_partitions(app, judging, server, predictions=PREDICTIONS.full_name(kafka.topic_prefix))
        await app.start()
        try:
            await _first_of(
                asked,
                app.wait_until_stopped(),
                publisher.cut_slices(),
                publisher.publish_slices(),
                judging.report_for_ever(),
            )
            await publisher.publish_rest()
        finally:
            await app.stop()


async def _prepare_topics(kafka: KafkaSettings) -> None:
    await asyncio.to_thread(create_topics, kafka)


def _follow_partitions(app: Any, judging: Judging, server: GrpcServer, *, predictions: str) -> None:
    """Keep the state of the partitions that this process has; healthy once the first ones are loaded."""

    def mine(partitions: Iterable[Any]) -> list[int]:
        return [one.partition for one in partitions if one.topic == predictions]

    async def assigned(_app: Any, assigned: Iterable[Any], **_: Any) -> None:
        await retrying(lambda: judging.load(mine(assigned)), what="snapshots")
        await server.set_ready()

    async def revoked(_app: Any, revoked: Iterable[Any], **_: Any) -> None:
        await judging.forget(mine(revoked))

    app.on_partitions_assigned.connect(assigned, weak=False)
    app.on_partitions_revoked.connect(revoked, weak=False)


async def _first_of(asked: asyncio.Task[str], *loops: Awaitable[None]) -> None:
    """Wait until a signal came; a loop that ends before is a fault.

    Raises:
        TidegateError: A loop ended by itself.

    """
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        await asyncio.wait({asked, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
                raise TidegateError("a part of the monitor ended by itself", code="PART_ENDED")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
