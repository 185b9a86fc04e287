"""Everything that the services say, kept in order of arrival, to wait for and to judge by."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from kafka import KafkaConsumer, TopicPartition

from tidegate.contracts.codec import Event, InvalidEvent, decode_record
from tidegate.contracts.topics import DEAD_LETTER, TOPICS
from tidegate.core.settings import KafkaSettings

POLL_MS = 100


@dataclass
class EventLog:
    """Follows all topics in a thread of its own; use as ``with``."""

    settings: KafkaSettings
    events: list[Event] = field(default_factory=list)
    dead_letters: list[dict[str, bytes]] = field(default_factory=list)
    _records: list[Any] = field(default_factory=list)
    _positions: dict[TopicPartition, int] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=20)

    def wait_for(self, what: str, matches: Callable[[Event], bool], *, deadline_s: float = 90) -> Event:
        """Return the first event that matches, past or future; fail with what was seen instead."""
        with self._changed:
            found = self._changed.wait_for(lambda: next(filter(matches, self.events), None), timeout=deadline_s)
        if not found:
            raise AssertionError(f"no {what} within {deadline_s} s; seen: {self.summary()}")
        return next(filter(matches, self.events))

    def wait_for_dead_letter(self, error_code: str, *, deadline_s: float = 60) -> None:
        """Wait until a message was set aside with ``error_code``."""

        def found() -> bool:
            return any(headers["tidegate-error"].decode().startswith(error_code) for headers in self.dead_letters)

        with self._changed:
            assert self._changed.wait_for(found, timeout=deadline_s), (
                f"no dead letter {error_code}: {self.dead_letters}"
            )

    def after(self, mark: int) -> list[Event]:
        """Return the events since ``mark`` (see :meth:`mark`)."""
        with self._changed:
            return self.events[mark:]

    def mark(self) -> int:
        """Return where the log stands now."""
        with self._changed:
            return len(self.events)

    def of_type(self, name: str, model: str) -> list[Any]:
        """Return the messages of one type about one model, in order."""
        with self._changed:
            return [event.message for event in self.events if event.type == name and event.subject == model]

    def all_up_to_now(self, *, deadline_s: float = 60) -> list[Event]:
        """Return every event, once this log has read what the broker has at the moment of the call."""
        ends = _ends(self.settings)
        with self._changed:
            complete = self._changed.wait_for(
                lambda: all(self._positions.get(place, 0) >= end for place, end in ends.items()), timeout=deadline_s
            )
            assert complete, f"the log lags behind the broker for {deadline_s} s"
            return [*self.events]

    def records(self) -> list[Any]:
        """Return the messages of all events as Kafka brought them (kafka-python's records), in order of arrival."""
        with self._changed:
            return [*self._records]

    def summary(self) -> list[str]:
        """Return one short line an event, without the steady reports."""
        steady = {"MetricReport", "PredictionBatch", "RolloutState"}
        told = [event for event in self.events if event.type not in steady]
        return [f"{event.type} {' '.join(str(event.message).split())[:300]}" for event in told[-40:]]

    def _follow(self) -> None:
        names = [topic.full_name(self.settings.topic_prefix) for topic in TOPICS]
        consumer = KafkaConsumer(
            *names,
            bootstrap_servers=self.settings.bootstrap,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
            # Tests kill the broker, and wait for what comes after.
            reconnect_backoff_max_ms=500,
        )
        dead_letter = DEAD_LETTER.full_name(self.settings.topic_prefix)
        try:
            while not self._stop.is_set():
                for records in consumer.poll(timeout_ms=POLL_MS).values():
                    for record in records:
                        self._add(record, is_dead_letter=record.topic == dead_letter)
                # Marks of transactions have offsets, too, and are no records.
                positions = {place: consumer.position(place) for place in consumer.assignment()}
                with self._changed:
                    self._positions = positions
                    self._changed.notify_all()
        finally:
            consumer.close()

    def _add(self, record: Any, *, is_dead_letter: bool) -> None:
        with self._changed:
            if is_dead_letter:
                self.dead_letters.append(dict(record.headers))
            else:
                self._add_event(record)
            self._changed.notify_all()

    def _add_event(self, record: Any) -> None:
        try:
            event = decode_record(record, received_time=datetime.now(tz=UTC))
        except InvalidEvent:
            # Rubbish that the test itself sent; the services' verdict about it is what counts.
            return
        self.events.append(event)
        self._records.append(record)


def _ends(settings: KafkaSettings) -> dict[TopicPartition, int]:
    """Return where each partition ends now."""
    names = [topic.full_name(settings.topic_prefix) for topic in TOPICS]
    consumer = KafkaConsumer(bootstrap_servers=settings.bootstrap, isolation_level="read_committed")
    try:
        places = [
            TopicPartition(name, number) for name in names for number in consumer.partitions_for_topic(name) or ()
        ]
        return dict(consumer.end_offsets(places))
    finally:
        consumer.close()
