"""The process: gRPC, three consumed topics, and the outbox relay."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from tidegate.contracts.principals import REGISTRY_PRINCIPAL
from tidegate.contracts.topics import ROLLOUTS, TRAINING, VALIDATION
from tidegate.core.bus import EventProducer, create_topics
from tidegate.core.grpc_server import GrpcServer
from tidegate.core.in_hand import InHand
from tidegate.core.object_store import ObjectStore
from tidegate.core.process import first_of, until_signal
from tidegate.core.settings import AccessSettings, KafkaSettings, ObjectStoreSettings
from tidegate.core.streams import consume, create_app, retrying
from tidegate.registry.agents import RegistryAgents
from tidegate.registry.eventlog.catchup import CaughtUp, catch_up
from tidegate.registry.eventlog.relay import OutboxRelay
from tidegate.registry.intake.artifacts import ArtifactIntake, SourceRules
from tidegate.registry.registration.registrar import Registrar
from tidegate.registry.servicer import RegistryServicer
from tidegate.registry.settings import RegistrySettings
from tidegate.registry.store import Store
from tidegate.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server

SERVICE_NAME: Final = "tidegate.v1.RegistryService"
# Together well below what a stop may take (core/process.py): leaving the consumer group needs the rest.
CALLS_END_WITHIN_S: Final = 1.0
DRAIN_S: Final = 1.5

log = structlog.get_logger(__name__)


async def serve(settings: RegistrySettings, kafka: KafkaSettings, s3: ObjectStoreSettings) -> None:
    """Run the registry until a signal asks it to stop.

    Raises:
        Unavailable: The port is taken.
        TidegateError: A part of it ended by itself.

    """
    work_dir = _fresh_work_dir(settings.data_dir)
    store = Store(settings.url())
    objects = ObjectStore(s3)
    rules = SourceRules(
        buckets=settings.buckets(s3.bucket),
        import_dir=settings.import_dir.resolve() if settings.import_dir else None,
        artifact_bytes_max=settings.artifact_bytes_max,
        file_bytes_max=settings.file_bytes_max,
    )
    registrar = Registrar(store, ArtifactIntake(objects, rules), work_dir=work_dir)
    server = GrpcServer(service_names=[SERVICE_NAME], access=AccessSettings())
    servicer = RegistryServicer(store, registrar)
    add_RegistryServiceServicer_to_server(servicer, server.server)
    try:
        parts = _Parts(store=store, registrar=registrar, servicer=servicer)
        await until_signal(_work(settings, kafka, objects, server, parts))
    finally:
        await server.stop()
        store.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    store: Store
    registrar: Registrar
    servicer: RegistryServicer


async def _work(
    settings: RegistrySettings, kafka: KafkaSettings, objects: ObjectStore, server: GrpcServer, parts: _Parts
) -> None:
    store, registrar = parts.store, parts.registrar
    await retrying(lambda: asyncio.to_thread(store.migrate), what="database")
    # Lookups need the database only: they are answered also while the bus is away.
    port = await server.start(settings.host, settings.port)
    log.info("listening", host=settings.host, port=port)
    await retrying(objects.ensure_bucket, what="bucket")
    await retrying(lambda: _ensure_topics(kafka), what="topics")
    learnt = await _caught_up(store, kafka)
    parts.servicer.accept_writes()
    async with EventProducer(kafka, client_id="tidegate-registry") as producer:
        relay = OutboxRelay(store, producer, topic_prefix=kafka.topic_prefix, bus=learnt.bus)
        agents = RegistryAgents(store, registrar)
        group = REGISTRY_PRINCIPAL.consumer_group(kafka.topic_prefix)
        app, in_hand = create_app(group, kafka), InHand(settings.data_dir, group)
        for topic, handle in (
            (TRAINING, agents.on_training),
            (VALIDATION, agents.on_validation),
            (ROLLOUTS, agents.on_rollout),
        ):
            consume(app, [topic], handle, kafka=kafka, producer=producer, in_hand=in_hand)
        _ready_when_consuming(app, server)
        await app.start()
        try:
            await first_of("the registry", relay.run(), relay.measure_for_ever(), app.wait_until_stopped())
        finally:
            # No new acknowledgements, then what was acknowledged goes out, and last what only costs time.
            await server.stop(CALLS_END_WITHIN_S)
            await relay.drain(DRAIN_S)
            await app.stop()


async def _ensure_topics(kafka: KafkaSettings) -> None:
    await asyncio.to_thread(create_topics, kafka)


async def _caught_up(store: Store, kafka: KafkaSettings) -> CaughtUp:
    """Learn what the topics know and the database does not: a number that was given must not be given again."""
    learnt: list[CaughtUp] = []

    async def attempt() -> None:
        learnt.append(await catch_up(store, kafka))

    await retrying(attempt, what="catch-up")
    return learnt[-1]


def _ready_when_consuming(app: Any, server: GrpcServer) -> None:
    async def assigned(*_: Any, **__: Any) -> None:
        await server.set_ready()

    app.on_partitions_assigned.connect(assigned, weak=False)


def _fresh_work_dir(data_dir: Path) -> Path:
    """Return an empty folder for files under way; what a killed process left is removed."""
    work_dir = data_dir / "incoming"
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
    return work_dir.resolve()
