"""What the validator said before, read back at its start: verdicts, and which version is stable.

So a redelivered event is not decided again, and a version is compared with stable, and asked what callers of its
baseline send, also after a restart.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from tidegate.contracts.codec import Event, InvalidEvent, decode_record
from tidegate.contracts.names import format_version
from tidegate.contracts.topics import REGISTRY, VALIDATION
from tidegate.core.clock import utc_now
from tidegate.core.errors import InvalidInput
from tidegate.core.kafka_access import explain
from tidegate.core.kafka_consumer import committed_consumer
from tidegate.core.object_store import ObjectStore
from tidegate.core.settings import KafkaSettings
from tidegate.v1 import events_pb2 as pb
from tidegate.validator.store import KnownMetric, ModelMemory

POLL_MS: Final = 500
REPORT_BYTES_MAX: Final = 16 * 1024 * 1024
STABLE: Final = "stable"


async def restore(memory: ModelMemory, *, kafka: KafkaSettings, store: ObjectStore) -> None:
    """Fill ``memory`` from the topics and from the reports of the stable versions.

    Raises:
        Unavailable: The broker or the object store is away.

    """
    reports: dict[tuple[str, str], str] = {}
    failed: list[tuple[str, str]] = []
    for event in await _history(kafka):
        match event.message:
            case pb.AliasMoved() as moved if moved.alias == STABLE:
                memory.stable[moved.model] = format_version(moved.version)
            case pb.ModelRegistered() as registered:
                memory.learn(registered)
            case pb.ValidationPassed() as passed:
                memory.mark_decided(event.causation_id)
                reports[passed.model, format_version(passed.version)] = passed.report_uri
            case pb.ValidationFailed() as refused:
                memory.mark_decided(event.causation_id)
                failed.append((refused.model, format_version(refused.version)))
            case _:
                continue
    for model, version in failed:
        memory.learn_failure(model, version)
    for model, version in memory.stable.items():
        uri = reports.get((model, version))
        if uri:
            memory.remember(model, version, await _metrics(store, uri))


async def _metrics(store: ObjectStore, uri: str) -> list[KnownMetric]:
    try:
        document = json.loads(await store.read(uri, limit_bytes=REPORT_BYTES_MAX))
    except InvalidInput:
        # The report is gone: then drops against this version are not judged, which the check says.
        return []
    return [
        KnownMetric(
            name=metric["name"],
            slice_name=metric["slice"],
            dataset_digest=metric["dataset_digest"],
            value=metric["value"],
        )
        for metric in document["metrics"]
        if metric["value"] is not None
    ]


async def _history(kafka: KafkaSettings) -> list[Event]:
    """Return the events of both topics, those of ``registry`` last: aliases point to what was validated."""
    consumer = committed_consumer(kafka, auto_offset_reset="earliest")
    try:
        await consumer.start()
        events: list[Event] = []
        for topic in (VALIDATION, REGISTRY):
            name = topic.full_name(kafka.topic_prefix)
            places = [TopicPartition(name, partition) for partition in range(kafka.partition_count)]
            events.extend(await _read_to_end(consumer, places))
    except KafkaError as error:
        raise await explain(kafka, error) from error
    finally:
        await consumer.stop()
    return events


async def _read_to_end(consumer: Any, places: list[TopicPartition]) -> list[Event]:
    consumer.assign(places)
    await consumer.seek_to_beginning(*places)
    ends: dict[TopicPartition, int] = await consumer.end_offsets(places)
    events: list[Event] = []
    while any([await consumer.position(place) < end for place, end in ends.items()]):
        batches: dict[TopicPartition, list[Any]] = await consumer.getmany(timeout_ms=POLL_MS)
        for record in (one for records in batches.values() for one in records):
            event = _decoded(record)
            if event is not None:
                events.append(event)
    return events


def _decoded(record: Any) -> Event | None:
    try:
        return decode_record(record, received_time=utc_now())
    except InvalidEvent:
        # Set aside by whoever consumed it; history does not need it.
        return None
