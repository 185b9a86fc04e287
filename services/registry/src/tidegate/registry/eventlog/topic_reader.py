"""Reading a topic up to the end that it has now, in no group: all of it comes, or an error does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from tidegate.contracts.codec import Event, InvalidEvent, decode_record
from tidegate.contracts.topics import Topic
from tidegate.core.clock import utc_now
from tidegate.core.errors import Unavailable
from tidegate.core.kafka_access import explain
from tidegate.core.kafka_consumer import committed_consumer
from tidegate.core.settings import KafkaSettings
from tidegate.registry.eventlog.bus_admin import read_partitions

BATCH_RECORDS: Final = 500
POLL_MS: Final = 500
# aiokafka waits for a broker that is gone without a word.
STALLED_S: Final = 30.0

log = structlog.get_logger(__name__)


class TopicReader:
    """All partitions of one topic; ``first`` and ``ends`` are its offsets when it was opened."""

    def __init__(
        self, consumer: AIOKafkaConsumer, topic: str, *, first: Mapping[int, int], ends: Mapping[int, int]
    ) -> None:
        self.topic = topic
        self.first = first
        self.ends = ends
        self._consumer = consumer

    async def batches(
        self, starts: Mapping[int, int], *, stalled_s: float = STALLED_S
    ) -> AsyncIterator[tuple[list[Event], dict[int, int]]]:
        """Yield the events from ``starts`` (absent = the beginning) to the ends, each batch with the offsets after it.

        Raises:
            Unavailable: Nothing has come for ``stalled_s`` seconds.

        """
        partitions = {number: TopicPartition(self.topic, number) for number in self.ends}
        for number, partition in partitions.items():
            self._consumer.seek(partition, max(starts.get(number, 0), self.first[number]))
        stands: dict[int, int] = {}
        moved_at = time.monotonic()
        while True:
            before = stands
            stands = {number: await self._consumer.position(each) for number, each in partitions.items()}
            behind = [partitions[number] for number, end in self.ends.items() if stands[number] < end]
            if not behind:
                return
            if stands != before:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > stalled_s:
                raise self._stalled(stands, stalled_s)
            records = await self._consumer.getmany(*behind, timeout_ms=POLL_MS, max_records=BATCH_RECORDS)
            if records:
                yield _events(records), _ends(records)

    def _stalled(self, stands: Mapping[int, int], stalled_s: float) -> Unavailable:
        left = ", ".join(
            f"{number} at {stands[number]} of {end}" for number, end in self.ends.items() if stands[number] < end
        )
        return Unavailable(
            f"nothing of {self.topic} has come for {stalled_s:g} s, partition {left}",
            code="BROKER_UNAVAILABLE",
            hint="is the broker that leads these partitions up?",
        )


@asynccontextmanager
async def reading(kafka: KafkaSettings, topic: Topic) -> AsyncIterator[TopicReader]:
    """Open all partitions of ``topic``.

    Raises:
        Unavailable: The broker is away, or the topic does not exist (code TOPIC_MISSING).

    """
    name = topic.full_name(kafka.topic_prefix)
    numbers = await asyncio.to_thread(read_partitions, kafka, name)
    partitions = [TopicPartition(name, number) for number in numbers]
    consumer = committed_consumer(
        kafka,
        client_id="tidegate-registry-catch-up",
        group_id=None,
        # An offset that is not there must be an error: nothing may be passed over.
        auto_offset_reset="none",
    )
    consumer.assign(partitions)
    try:
        await consumer.start()
        first = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        yield TopicReader(
            consumer,
            name,
            first={each.partition: first[each] for each in partitions},
            ends={each.partition: ends[each] for each in partitions},
        )
    except KafkaError as error:
        raise await explain(kafka, error) from error
    finally:
        await consumer.stop()


def _events(records: Mapping[TopicPartition, list[ConsumerRecord]]) -> list[Event]:
    return [event for batch in records.values() for one in batch if (event := _decode(one)) is not None]


def _ends(records: Mapping[TopicPartition, list[ConsumerRecord]]) -> dict[int, int]:
    return {partition.partition: batch[-1].offset + 1 for partition, batch in records.items() if batch}


def _decode(record: ConsumerRecord) -> Event | None:
    try:
        return decode_record(record, received_time=utc_now())
    except InvalidEvent as error:
        origin = f"{record.topic}/{record.partition}/{record.offset}"
        log.warning("no event, passed over", origin=origin, code=error.code, error=str(error))
        return None
