"""Reading compacted topics back: the states of one partition, or everything that replicas follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from tidegate.contracts.codec import Event, InvalidEvent, decode
from tidegate.contracts.topics import ROLLOUT_STATE, Topic
from tidegate.core.clock import utc_now
from tidegate.core.errors import Unavailable
from tidegate.core.settings import KafkaSettings
from tidegate.deployer.state import ModelState
from tidegate.deployer.wire import state_from
from tidegate.v1.rollout_events_pb2 import RolloutState

POLL_MS: Final = 200
READ_WITHIN_S: Final = 60.0

log = structlog.get_logger(__name__)


def decoded(record: Any) -> Event:
    """Return the event of a consumed record.

    Raises:
        InvalidEvent: It is none.

    """
    return decode(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        value=record.value,
        headers=record.headers,
        received_time=utc_now(),
    )


@asynccontextmanager
async def reader(kafka: KafkaSettings, partitions: Sequence[TopicPartition]) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer of committed records that stands at the beginning of ``partitions``, outside any group.

    Raises:
        Unavailable: The broker can't be reached.

    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap,
        client_id="tidegate-deployer-reader",
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        await consumer.start()
        consumer.assign(list(partitions))
        await consumer.seek_to_beginning(*partitions)
        yield consumer
    except KafkaError as error:
        raise Unavailable(f"could not read {partitions[0].topic}: {error}", code="BROKER_UNAVAILABLE") from error
    finally:
        await consumer.stop()


async def read_to_end(consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> list[Any]:
    """Return every record from the position of ``consumer`` to where the topics end now, in order per partition.

    Raises:
        Unavailable: It took longer than READ_WITHIN_S.

    """
    ends = await consumer.end_offsets(list(partitions))
    records: list[Any] = []
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            while not await _is_at(consumer, ends):
                batches = await consumer.getmany(timeout_ms=POLL_MS)
                records.extend(record for batch in batches.values() for record in batch)
    except TimeoutError:
        raise Unavailable(f"reading to {ends} took over {READ_WITHIN_S:g} s", code="BROKER_UNAVAILABLE") from None
    return records


async def _is_at(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
    for partition, end in ends.items():
        if await consumer.position(partition) < end:
            return False
    return True


async def load_states(kafka: KafkaSettings, number: int) -> dict[str, ModelState]:
    """Return the last saved state of every model of a partition.

    Raises:
        Unavailable: The broker can't be reached.
        ValueError: A snapshot has a format of another release.

    """
    partitions = [TopicPartition(ROLLOUT_STATE.full_name(kafka.topic_prefix), number)]
    states: dict[str, ModelState] = {}
    async with reader(kafka, partitions) as consumer:
        for record in await read_to_end(consumer, partitions):
            message = decoded(record).message
            if isinstance(message, RolloutState):
                states[message.model] = state_from(message)
    return states


def partitions_of(kafka: KafkaSettings, topics: Sequence[Topic]) -> list[TopicPartition]:
    """Return all partitions of ``topics``."""
    return [
        TopicPartition(topic.full_name(kafka.topic_prefix), number)
        for topic in topics
        for number in range(kafka.partition_count)
    ]


def event_or_none(record: Any) -> Event | None:
    """Return the event of a record of our own topics; anything else there is logged and passed over."""
    try:
        return decoded(record)
    except InvalidEvent as error:
        log.warning("record passed over", topic=record.topic, offset=record.offset, error=str(error))
        return None
