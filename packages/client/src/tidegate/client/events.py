"""Reading events from Kafka without a consumer group: what happened, and what happens from now on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from tidegate.contracts.codec import Event, InvalidEvent, decode_record, encode
from tidegate.contracts.principals import STORY_TOPICS
from tidegate.contracts.topics import TOPIC_BY_MESSAGE, Topic
from tidegate.core.clock import utc_now
from tidegate.core.errors import TidegateError, Unavailable
from tidegate.core.kafka_access import check_login_blocking, client_options, explain_blocking, forbidden, is_forbidden
from tidegate.core.settings import KafkaSettings
from tidegate.core.tracing import sending

POLL_MS: Final = 200
HISTORY_DEADLINE_S: Final = 30.0
ACKNOWLEDGEMENT_TIMEOUT_S: Final = 15.0
MESSAGE_BYTES_MAX: Final = 900_000


def _failure(settings: KafkaSettings, error: KafkaError) -> TidegateError:
    found = explain_blocking(settings, error)
    found.hint = found.hint or "see `tidegate status`; `tidegate up` starts the embedded stack"
    return found


def publish_event(settings: KafkaSettings, event: Event) -> None:
    """Publish one event to the topic of its message; return when the broker has it on disk.

    Raises:
        Unavailable: The broker is away or did not acknowledge.
        Refused: The broker does not let us in, or not write that topic.

    """
    record = encode(event)
    topic = TOPIC_BY_MESSAGE[event.type].full_name(settings.topic_prefix)
    check_login_blocking(settings)
    try:
        producer = KafkaProducer(
            **client_options(settings),
            client_id="tidegate-client",
            acks="all",
            max_request_size=MESSAGE_BYTES_MAX,
            max_block_ms=int(ACKNOWLEDGEMENT_TIMEOUT_S * 1000),
        )
    except KafkaError as error:
        raise _failure(settings, error) from error
    try:
        # Below the caller's span, if there is one: so a training pipeline's own trace goes on.
        with sending(topic, record, begins=True) as traced:
            sent = producer.send(topic, value=traced.value, key=traced.key, headers=list(traced.headers))
            sent.get(timeout=ACKNOWLEDGEMENT_TIMEOUT_S)
    except KafkaError as error:
        if is_forbidden(error):
            raise forbidden(settings, error, what=f"publish to {topic}") from error
        raise Unavailable(f"the broker did not take the event: {error}", code="BROKER_UNAVAILABLE") from error
    finally:
        producer.close(timeout=ACKNOWLEDGEMENT_TIMEOUT_S)


class EventReader:
    """Reads all partitions of ``topics``; use as ``with``.

    ``since`` is a time, None (the beginning) or "now" (only what comes). Messages that are no events of the contract
    are left out: the services put them on the dead-letter topic.
    """

    def __init__(
        self, settings: KafkaSettings, topics: Sequence[Topic] = STORY_TOPICS, *, since: datetime | str | None = None
    ) -> None:
        self._settings = settings
        check_login_blocking(settings)
        try:
            self._consumer: Any = KafkaConsumer(
                **client_options(settings),
                client_id="tidegate-client",
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
            )
            self._assign([topic.full_name(settings.topic_prefix) for topic in topics], since)
        except KafkaError as error:
            raise _failure(settings, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def poll(self, timeout_s: float = POLL_MS / 1000) -> list[Event]:
        """Return the events that are there, waiting at most ``timeout_s`` for the first; in order per partition.

        Raises:
            Unavailable: The broker is away.

        """
        try:
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        except KafkaError as error:
            raise _failure(self._settings, error) from error
        events = (_decoded(record) for records in polled.values() for record in records)
        return sorted((event for event in events if event is not None), key=lambda event: event.time)

    def history(self) -> list[Event]:
        """Return everything up to now, ordered by time.

        Raises:
            Unavailable: It did not all arrive in HISTORY_DEADLINE_S.

        """
        ends = self._consumer.end_offsets(list(self._consumer.assignment()))
        deadline = time.monotonic() + HISTORY_DEADLINE_S
        found: list[Event] = []
        while any(self._consumer.position(partition) < end for partition, end in ends.items()):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the events were not all read in {HISTORY_DEADLINE_S:.0f} s", code="HISTORY_INCOMPLETE"
                )
            found.extend(self.poll())
        return sorted(found, key=lambda event: event.time)

    def follow(self, *, deadline_s: float | None = None) -> Iterator[Event]:
        """Yield events as they come, for ever or for ``deadline_s``."""
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        while deadline is None or time.monotonic() < deadline:
            yield from self.poll()

    def _assign(self, names: Sequence[str], since: datetime | str | None) -> None:
        partitions = [
            TopicPartition(name, number)
            for name in names
            for number in sorted(self._consumer.partitions_for_topic(name) or ())
        ]
        self._consumer.assign(partitions)
        if since is None:
            self._consumer.seek_to_beginning(*partitions)
        elif isinstance(since, datetime):
            self._seek_to_time(partitions, since)
        else:
            self._consumer.seek_to_end(*partitions)
        # Positions are fixed now, so that nothing that happens before the first poll is missed.
        for partition in partitions:
            self._consumer.position(partition)

    def _seek_to_time(self, partitions: list[TopicPartition], since: datetime) -> None:
        stamp = int(since.timestamp() * 1000)
        found = self._consumer.offsets_for_times(dict.fromkeys(partitions, stamp))
        for partition in partitions:
            place = found.get(partition)
            if place is None:
                self._consumer.seek_to_end(partition)
            else:
                self._consumer.seek(partition, place.offset)


def _decoded(record: Any) -> Event | None:
    try:
        return decode_record(record, received_time=utc_now())
    except InvalidEvent:
        return None
