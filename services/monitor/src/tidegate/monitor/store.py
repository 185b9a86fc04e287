"""Snapshots of the judges' state: one compacted topic, keyed by model, next to the predictions' partitions.

A snapshot holds the offset of the last batch that it has counted, so after a crash each batch counts exactly once.
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from tidegate.contracts.codec import Record
from tidegate.contracts.topics import MONITOR_STATE
from tidegate.core.bus import EventProducer
from tidegate.core.errors import Unavailable
from tidegate.core.kafka_access import client_options, explain
from tidegate.core.settings import KafkaSettings
from tidegate.monitor.judges.replay import canonical
from tidegate.monitor.rollouts import ModelState, read_model_state

FETCH_TIMEOUT_MS: Final = 500
LOAD_TIMEOUT_S: Final = 30.0


class SnapshotStore:
    """Loads and saves the state of models."""

    def __init__(self, kafka: KafkaSettings, producer: EventProducer) -> None:
        self._kafka = kafka
        self._producer = producer
        self._topic = MONITOR_STATE.full_name(kafka.topic_prefix)

    async def save(self, state: ModelState) -> None:
        """Save ``state``; returns when the broker has it.

        Raises:
            Unavailable: The broker did not acknowledge it.

        """
        value = canonical(state.to_json()).encode()
        await self._producer.publish_record(self._topic, Record(key=state.model.encode(), value=value))

    async def load(self, partition: int) -> list[ModelState]:
        """Return the newest state of each model of ``partition``.

        Raises:
            Unavailable: The broker can't be read.

        """
        consumer = AIOKafkaConsumer(**client_options(self._kafka), enable_auto_commit=False)
        try:
            await consumer.start()
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                newest = await self._read_to_end(consumer, TopicPartition(self._topic, partition))
        except KafkaError as error:
            raise await explain(self._kafka, error) from error
        except TimeoutError as error:
            raise Unavailable(
                f"{self._topic}/{partition} was not read in {LOAD_TIMEOUT_S:.0f} s", code="BROKER_UNAVAILABLE"
            ) from error
        finally:
            await consumer.stop()
        return [read_model_state(json.loads(value)) for value in newest.values()]

    async def _read_to_end(self, consumer: AIOKafkaConsumer, where: TopicPartition) -> dict[bytes, bytes]:
        consumer.assign([where])
        await consumer.seek_to_beginning(where)
        end = (await consumer.end_offsets([where]))[where]
        newest: dict[bytes, bytes] = {}
        while await consumer.position(where) < end:
            fetched = await consumer.getmany(where, timeout_ms=FETCH_TIMEOUT_MS)
            newest.update({bytes(one.key): bytes(one.value) for one in fetched.get(where, [])})
        return newest
