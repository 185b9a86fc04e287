"""The process: the access log service and health on one gRPC server, the judges behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog
from envoy.service.accesslog.v3 import als_pb2_grpc

from tidegate.contracts.principals import MONITOR_PRINCIPAL
from tidegate.contracts.topics import PREDICTIONS, ROLLOUTS
from tidegate.core.bus import EventProducer, create_topics
from tidegate.core.grpc_server import GrpcServer
from tidegate.core.in_hand import InHand
from tidegate.core.process import first_of, until_signal
from tidegate.core.settings import AccessSettings, KafkaSettings
from tidegate.core.streams import consume, create_app, retrying
from tidegate.monitor.accesslog import SERVICE_NAME, AccessLogService
from tidegate.monitor.agents import Judging
from tidegate.monitor.batches import Assembler
from tidegate.monitor.publishing import PredictionPublisher, Sequences
from tidegate.monitor.settings import MonitorSettings
from tidegate.monitor.store import SnapshotStore

log = structlog.get_logger(__name__)


async def serve(settings: MonitorSettings, kafka: KafkaSettings) -> None:
    """Run the monitor until a signal asks it to stop.

    Raises:
        Unavailable: The port is taken.
        TidegateError: A part of it ended by itself.

    """
    assembler = Assembler()
    server = GrpcServer(service_names=[SERVICE_NAME], access=AccessSettings())
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(AccessLogService(assembler), server.server)
    # The log is taken before Kafka is there: what a proxy sends to nobody is lost.
    port = await server.start(settings.host, settings.port)
    log.info("listening", host=settings.host, port=port)
    try:
        await until_signal(_work(settings, kafka, assembler, server))
    finally:
        await server.stop()


async def _work(settings: MonitorSettings, kafka: KafkaSettings, assembler: Assembler, server: GrpcServer) -> None:
    await retrying(lambda: _prepare_topics(kafka), what="topics")
    async with EventProducer(kafka, client_id="tidegate-monitor") as producer:
        sequences = Sequences()
        publisher = PredictionPublisher(
            assembler=assembler, producer=producer, sequences=sequences, slice_s=settings.slice_s
        )
        store = SnapshotStore(kafka, producer)
        judging = Judging(settings=settings, producer=producer, store=store, sequences=sequences)
        group = MONITOR_PRINCIPAL.consumer_group(kafka.topic_prefix)
        app, in_hand = create_app(group, kafka), InHand(settings.data_dir, group)
        consume(app, [ROLLOUTS, PREDICTIONS], judging.handle, kafka=kafka, producer=producer, in_hand=in_hand)
        _follow_partitions(app, judging, server, predictions=PREDICTIONS.full_name(kafka.topic_prefix))
        await app.start()
        try:
            await first_of(
                "the monitor",
                app.wait_until_stopped(),
                publisher.cut_slices(),
                publisher.publish_slices(),
                judging.report_for_ever(),
            )
        except asyncio.CancelledError:
            # Asked to stop: what proxies told us last is not lost.
            await publisher.publish_rest()
            raise
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
