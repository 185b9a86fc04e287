"""The bare bus: what a round trip and a transaction cost on the same broker, at the same time, without us."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Coroutine
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from tidegate.core.settings import KafkaSettings

CALL_S: Final = 60.0
RECEIVE_S: Final = 20.0
# As the deployer has them.
RETRY_BACKOFF_MS: Final = 5
FETCH_MAX_WAIT_MS: Final = 100


class BareKafka:
    """One producer, one transactional producer and a consumer on a topic of their own; use as ``with``.

    The loop runs in a thread, so that benchmarks can measure it between their own steps.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._topic = f"bench-{uuid.uuid4().hex[:8]}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bare-kafka", daemon=True)

    def __enter__(self) -> Self:
        admin = KafkaAdminClient(bootstrap_servers=self._kafka.bootstrap)
        admin.create_topics([NewTopic(self._topic, 1, 1)])
        admin.close()
        self._thread.start()
        self._await(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._await(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_S)
        self._loop.close()

    def round_trip_ms(self) -> float:
        """Return how long one message took from produce (acks=all) until a consumer had it."""
        return float(self._await(self._round_trip()))

    def transaction_ms(self) -> float:
        """Return how long one message took in a transaction, until a read_committed consumer had it."""
        return float(self._await(self._transaction()))

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)

    async def _start(self) -> None:
        self._producer = AIOKafkaProducer(bootstrap_servers=self._kafka.bootstrap, acks="all", enable_idempotence=True)
        self._transactional = AIOKafkaProducer(
            bootstrap_servers=self._kafka.bootstrap,
            transactional_id=self._topic,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._kafka.bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
        )
        await self._producer.start()
        await self._transactional.start()
        await self._consumer.start()
        place = TopicPartition(self._topic, 0)
        self._consumer.assign([place])
        await self._consumer.seek_to_end(place)
        # The first of each pays for metadata and coordinators.
        await self._round_trip()
        await self._transaction()

    async def _stop(self) -> None:
        await self._producer.stop()
        await self._transactional.stop()
        await self._consumer.stop()

    async def _round_trip(self) -> float:
        begin = time.perf_counter()
        await self._producer.send(self._topic, value=b"bare", partition=0)
        await self._received()
        return (time.perf_counter() - begin) * 1000

    async def _transaction(self) -> float:
        begin = time.perf_counter()
        async with self._transactional.transaction():
            await self._transactional.send(self._topic, value=b"bare", partition=0)
        await self._received()
        return (time.perf_counter() - begin) * 1000

    async def _received(self) -> None:
        async with asyncio.timeout(RECEIVE_S):
            while not await self._consumer.getmany(timeout_ms=1000):
                continue
