"""Snapshots of the judges' state: one compacted topic, keyed by model, next to the predictions' partitions.

A snapshot holds the offset of the last batch that it has counted, so after a crash each batch counts exactly once.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from tidegate.contracts.codec import Record
from tidegate.contracts.topics import MONITOR_STATE
from tidegate.core.bus import EventProducer
from tidegate.core.errors import Unavailable
from tidegate.core.kafka_access import explain
from tidegate.core.kafka_consumer import committed_consumer
from tidegate.core.settings import KafkaSettings
from tidegate.core.tracing import HEADER
from tidegate.monitor.judges.replay import canonical
from tidegate.monitor.rollouts import ModelState, read_model_state

FETCH_TIMEOUT_MS: Final = 500
LOAD_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A saved state: ``traceparent`` is what its newest rollout's findings follow from, ``time`` when it was saved."""

    state: ModelState
    traceparent: str
    time: datetime


class SnapshotStore:
    """Loads and saves the state of models."""

    def __init__(self, kafka: KafkaSettings, producer: EventProducer) -> None:
        self._kafka = kafka
        self._producer = producer
        self._topic = MONITOR_STATE.full_name(kafka.topic_prefix)

    async def save(self, state: ModelState, *, traceparent: str = "") -> None:
        """Save ``state`` and what its findings follow from; returns when the broker has it.

        Raises:
            Unavailable: The broker did not acknowledge it.

        """
        value = canonical(state.to_json()).encode()
        headers = ((HEADER, traceparent.encode()),) if traceparent else ()
        record = Record(key=state.model.encode(), value=value, headers=headers)
        await self._producer.publish_record(self._topic, record, traced=False)

    async def load(self, partition: int) -> list[Snapshot]:
        """Return the newest state of each model of ``partition``.

        Raises:
            Unavailable: The broker can't be read.

        """
        consumer = committed_consumer(self._kafka)
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                await consumer.start()
                newest = await self._read_to_end(consumer, TopicPartition(self._topic, partition))
        except KafkaError as error:
            raise await explain(self._kafka, error) from error
        except TimeoutError as error:
            raise Unavailable(
                f"{self._topic}/{partition} was not read in {LOAD_TIMEOUT_S:.0f} s", code="BROKER_UNAVAILABLE"
            ) from error
        finally:
            # Nothing of it is needed any more, and it too can wait for a broker that has gone.
            with suppress(TimeoutError):
                await asyncio.wait_for(consumer.stop(), STOP_TIMEOUT_S)
        return [_snapshot_of(record) for record in newest.values()]

    async def _read_to_end(self, consumer: AIOKafkaConsumer, where: TopicPartition) -> dict[bytes, Any]:
        consumer.assign([where])
        await consumer.seek_to_beginning(where)
        end = (await consumer.end_offsets([where]))[where]
        newest: dict[bytes, Any] = {}
        while await consumer.position(where) < end:
            fetched = await consumer.getmany(where, timeout_ms=FETCH_TIMEOUT_MS)
            newest.update({bytes(one.key): one for one in fetched.get(where, [])})
        return newest


def _snapshot_of(record: Any) -> Snapshot:
    return Snapshot(
        state=read_model_state(json.loads(bytes(record.value))),
        traceparent=dict(record.headers).get(HEADER, b"").decode(),
        time=datetime.fromtimestamp(record.timestamp / 1000, tz=UTC),
    )
