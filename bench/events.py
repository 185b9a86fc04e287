"""Follows what the services say, in a thread of its own, and waits for events by what they are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, TopicPartition

from tidegate.contracts.codec import Event, InvalidEvent, decode_record
from tidegate.contracts.topics import MONITORING, REGISTRY, ROLLOUTS, TRAINING, VALIDATION
from tidegate.core.errors import Unavailable
from tidegate.core.settings import KafkaSettings

TOPICS: Final = (TRAINING, REGISTRY, VALIDATION, ROLLOUTS, MONITORING)
START_S: Final = 30.0
POLL_MS: Final = 200
SHOWN: Final = 15


class EventLog:
    """Keeps the events of TOPICS from the beginning, without the steady reports; use as ``with``."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()), name="events", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(START_S)

    def mark(self) -> int:
        """Return how many events there are."""
        with self._changed:
            return len(self._events)

    def wait(self, what: str, matches: Callable[[Any], bool], *, since: int = 0, deadline_s: float = 120.0) -> Event:
        """Return the first event from number ``since`` on whose event ``matches``, past or future.

        Raises:
            Unavailable: There was none in ``deadline_s``; the message has the last events.

        """
        with self._changed:
            if self._changed.wait_for(lambda: self._first(matches, since) is not None, timeout=deadline_s):
                found = self._first(matches, since)
                if found is not None:
                    return found
            last = [f"{event.type} {' '.join(str(event.message).split())[:160]}" for event in self._events[-SHOWN:]]
        raise Unavailable(f"no {what} within {deadline_s:g} s; the last events: {last}", code="BENCH_TIMEOUT")

    def all(self, matches: Callable[[Any], bool], *, since: int = 0) -> list[Event]:
        """Return the events from number ``since`` on that match."""
        with self._changed:
            return [event for event in self._events[since:] if matches(event)]

    def _first(self, matches: Callable[[Any], bool], since: int) -> Event | None:
        return next((event for event in self._events[since:] if matches(event)), None)

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._kafka.bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        try:
            places = [
                TopicPartition(topic.full_name(self._kafka.topic_prefix), partition)
                for topic in TOPICS
                for partition in range(self._kafka.partition_count)
            ]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            while not self._stop.is_set():
                batches = await consumer.getmany(timeout_ms=POLL_MS)
                self._add([record for records in batches.values() for record in records])
        finally:
            await consumer.stop()

    def _add(self, records: list[Any]) -> None:
        events = [event for event in map(_decoded, records) if event is not None and event.type != "MetricReport"]
        if events:
            with self._changed:
                self._events.extend(events)
                self._changed.notify_all()


def _decoded(record: Any) -> Event | None:
    try:
        return decode_record(record, received_time=datetime.now(tz=UTC))
    except InvalidEvent:
        # Whoever wrote it hears of it by the services' dead letters.
        return None
