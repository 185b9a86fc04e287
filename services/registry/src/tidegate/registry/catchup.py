"""Catching up: before it decides a number, the registry learns what its own topics know and its database does not.

The topics ``registry`` and ``policies`` are kept for ever and only the registry writes them, so that a database from a
backup, an old disk or nowhere becomes right again. In normal times there is nothing to learn, and this ends at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from sqlalchemy import Connection

from tidegate.contracts.codec import Event, InvalidEvent, decode
from tidegate.contracts.names import version_reference
from tidegate.contracts.topics import POLICIES, REGISTRY, Topic
from tidegate.core.clock import utc_now
from tidegate.core.errors import FailedPrecondition, Unavailable
from tidegate.core.kafka_access import client_options, explain
from tidegate.core.settings import KafkaSettings
from tidegate.registry.bus_admin import INPUTS, Offsets, read_bus_id, rewind_inputs
from tidegate.registry.positions import (
    RESTORED,
    join_bus,
    read_fact,
    read_positions,
    write_fact,
    write_positions,
)
from tidegate.registry.reannouncement import announce_stable
from tidegate.registry.replay import Replayed, replay
from tidegate.registry.store import Store
from tidegate.v1.events_pb2 import ModelRegistered

BATCH_RECORDS: Final = 500
POLL_MS: Final = 500

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CaughtUp:
    """What was learnt: ``bus`` is the cluster's id, ``versions`` those that the database did not have."""

    bus: str
    new_bus: bool = False
    applied: int = 0
    versions: tuple[ModelRegistered, ...] = ()
    announced: tuple[str, ...] = ()
    rewound: int = 0


async def catch_up(store: Store, kafka: KafkaSettings) -> CaughtUp:
    """Make the database reflect the registry's own topics, and have its inputs come again if it did not.

    Raises:
        Unavailable: The broker or the database are away, or another registry is in the consumer group.
        FailedPrecondition: The topic tells another story than the database, or has lost its beginning.

    """
    bus = await asyncio.to_thread(read_bus_id, kafka)
    new_bus = await store.write(lambda connection: join_bus(connection, bus))
    if new_bus:
        log.warning("this database comes from another Kafka cluster", bus=bus)
    applied = 0
    versions: list[ModelRegistered] = []
    for topic in (REGISTRY, POLICIES):
        async with _reading(kafka, topic) as consumer:
            async for records in _from(consumer, await _begin(store, consumer, bus, topic, kafka)):
                learnt = await _learn(store, bus, topic.full_name(kafka.topic_prefix), records)
                applied += len(learnt)
                versions += [event.message for event in learnt if isinstance(event.message, ModelRegistered)]
    restored = await store.read(lambda connection: read_fact(connection, RESTORED))
    rewound: Offsets = {}
    announced = await store.write(lambda connection: announce_stable(connection, bus))
    if announced:
        log.warning("the stable versions are told to the new bus", versions=announced)
    if applied or restored:
        rewound = await _rewind(store, kafka, bus)
    if applied:
        told = [version_reference(one.model, one.version) for one in versions]
        log.warning("the database was behind its topics", events=applied, versions=told, restored=restored)
    return CaughtUp(
        bus=bus,
        announced=tuple(announced),
        new_bus=new_bus,
        applied=applied,
        versions=tuple(versions),
        rewound=sum(len(partitions) for partitions in rewound.values()),
    )


async def _rewind(store: Store, kafka: KafkaSettings, bus: str) -> Offsets:
    """Have verdicts, rollouts and trainings that this database did not see come again; those it saw change nothing."""
    names = [topic.full_name(kafka.topic_prefix) for topic in INPUTS]
    wanted = await store.read(lambda connection: {name: read_positions(connection, bus, name) for name in names})
    rewound = await asyncio.to_thread(rewind_inputs, kafka, wanted)
    await store.write(lambda connection: write_fact(connection, RESTORED, ""))
    if rewound:
        log.info("the inputs are read again", offsets=rewound)
    return rewound


@asynccontextmanager
async def _reading(kafka: KafkaSettings, topic: Topic) -> AsyncIterator[AIOKafkaConsumer]:
    """Open a consumer of all partitions of ``topic``, in no group."""
    name = topic.full_name(kafka.topic_prefix)
    consumer = AIOKafkaConsumer(
        name,
        **client_options(kafka),
        client_id="tidegate-registry-catch-up",
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    try:
        await consumer.start()
        if not consumer.assignment():
            raise Unavailable(f"the topic {name} does not exist", code="TOPIC_MISSING", hint="create the topics first")
        yield consumer
    except KafkaError as error:
        raise await explain(kafka, error) from error
    finally:
        await consumer.stop()


async def _begin(
    store: Store, consumer: AIOKafkaConsumer, bus: str, topic: Topic, kafka: KafkaSettings
) -> dict[TopicPartition, int]:
    """Set each partition to where the database knows it from; return the ends that are there now."""
    partitions = sorted(consumer.assignment())
    first = await consumer.beginning_offsets(partitions)
    ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
    name = topic.full_name(kafka.topic_prefix)
    known = await store.read(lambda connection: read_positions(connection, bus, name))
    for partition in partitions:
        position = known.get(partition.partition, 0)
        if position > ends[partition]:
            # The topic was made anew; what it has is read from its beginning.
            position = 0
        if position < first[partition] and not topic.compacted:
            raise FailedPrecondition(
                f"{name}/{partition.partition} begins at offset {first[partition]}, the database knows it up to "
                f"{position}: registrations in between are lost, and their numbers could be given again",
                code="TOPIC_TRUNCATED",
                hint="the topic must be kept for ever (retention.ms=-1); restore a newer backup of the registry",
            )
        consumer.seek(partition, max(position, first[partition]))
    return ends


async def _from(
    consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]
) -> AsyncIterator[dict[TopicPartition, list[ConsumerRecord]]]:
    """Yield what lies before ``ends``, in batches."""
    while True:
        behind = [partition for partition, end in ends.items() if await consumer.position(partition) < end]
        if not behind:
            return
        records = await consumer.getmany(*behind, timeout_ms=POLL_MS, max_records=BATCH_RECORDS)
        if records:
            yield records


async def _learn(
    store: Store, bus: str, topic: str, records: Mapping[TopicPartition, list[ConsumerRecord]]
) -> list[Event]:
    """Replay one batch and remember its end, in one transaction; return the events that changed something."""
    events = [event for batch in records.values() for one in batch if (event := _decode(one)) is not None]
    ends = {partition.partition: batch[-1].offset + 1 for partition, batch in records.items() if batch}

    def work(connection: Connection) -> list[Event]:
        learnt = [event for event in events if replay(connection, event) is Replayed.APPLIED]
        write_positions(connection, bus, topic, ends)
        return learnt

    return await store.write(work)


def _decode(record: ConsumerRecord) -> Event | None:
    try:
        return decode(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            value=record.value,
            headers=record.headers,
            received_time=utc_now(),
        )
    except InvalidEvent as error:
        origin = f"{record.topic}/{record.partition}/{record.offset}"
        log.warning("no event of the registry, passed over", origin=origin, code=error.code, error=str(error))
        return None
