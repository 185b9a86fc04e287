"""The event bus: producing events (aiokafka), topics (kafka-python's admin client)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, closing
from typing import Final, Self

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError as AdminKafkaError
from kafka.errors import TopicAlreadyExistsError

from tidegate.contracts.codec import JSON, PROTOBUF, Event, Record, encode
from tidegate.contracts.topics import DEAD_LETTER, PRIVATE_TOPICS, TOPIC_BY_MESSAGE, TOPICS
from tidegate.core.errors import TidegateError, Unavailable
from tidegate.core.kafka_access import (
    check_login_blocking,
    client_options,
    explain,
    explain_blocking,
    forbidden,
    is_forbidden,
)
from tidegate.core.metrics import EVENTS_PRODUCED, topic_label
from tidegate.core.settings import KafkaSettings
from tidegate.core.tracing import sending

MESSAGE_BYTES_MAX: Final = 900_000
RETRY_BACKOFF_MS: Final = 20
# What a record costs besides its bytes, generously: lengths, offsets, the batch's head.
RECORD_OVERHEAD: Final = 1_024
HEADER_OVERHEAD: Final = 16
KEY_KEPT: Final = 1_024

log = structlog.get_logger(__name__)


def create_topics(settings: KafkaSettings) -> list[str]:
    """Create the topics that do not exist yet and return their full names; blocking, repeatable.

    Raises:
        Unavailable: The broker can't be reached.
        Refused: The broker does not know us, or a topic is missing that we may not create.

    """
    with closing(admin_client(settings, client_id="tidegate-topics")) as admin:
        try:
            return _create_missing(admin, settings)
        except AdminKafkaError as error:
            raise explain_blocking(settings, error) from error


def admin_client(settings: KafkaSettings, *, client_id: str) -> KafkaAdminClient:
    """Return a client for administration; close it after use.

    Raises:
        Unavailable: The broker can't be reached.
        Refused: The broker does not know us.

    """
    check_login_blocking(settings)
    try:
        return KafkaAdminClient(**client_options(settings), client_id=client_id)
    except AdminKafkaError as error:
        raise explain_blocking(settings, error) from error


def _create_missing(admin: KafkaAdminClient, settings: KafkaSettings) -> list[str]:
    created = []
    existing = set(admin.list_topics())
    for topic in (*TOPICS, *PRIVATE_TOPICS):
        name = topic.full_name(settings.topic_prefix)
        if name in existing:
            continue
        wanted = NewTopic(name, settings.partition_count, 1, topic_configs=topic.broker_config())
        try:
            admin.create_topics([wanted])
        except TopicAlreadyExistsError:
            continue
        except AdminKafkaError as error:
            if is_forbidden(error):
                raise forbidden(settings, error, what=f"create the topic {name}, which is missing") from error
            raise
        created.append(name)
    return created


class EventProducer:
    """Publishes events with acks=all and idempotence; use as ``async with``."""

    def __init__(self, settings: KafkaSettings, *, client_id: str) -> None:
        self._settings = settings
        self._producer = AIOKafkaProducer(
            **client_options(settings),
            client_id=client_id,
            acks="all",
            enable_idempotence=True,
            max_request_size=MESSAGE_BYTES_MAX,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )

    async def __aenter__(self) -> Self:
        try:
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            raise await explain(self._settings, error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def publish(self, event: Event, *, as_json: bool = False) -> None:
        """Publish one event to the topic of its message; returns when the broker has it.

        Raises:
            Unavailable: The broker did not acknowledge it.
            Refused: The broker does not let us write that topic.

        """
        await self.publish_all([event], as_json=as_json)

    async def publish_all(self, events: Iterable[Event], *, as_json: bool = False) -> None:
        """Publish events in order; returns when the broker has all.

        Raises:
            Unavailable: The broker did not acknowledge one.

        """
        content_type = JSON if as_json else PROTOBUF
        await self._publish(
            (
                TOPIC_BY_MESSAGE[event.type].full_name(self._settings.topic_prefix),
                encode(event, content_type=content_type),
            )
            for event in events
        )

    async def publish_record(self, topic: str, record: Record, *, traced: bool = True) -> tuple[int, int]:
        """Publish an encoded event to the topic named in full and return its partition and offset.

        The offset is -1 if the broker had the record already and does not say where.

        With ``traced`` the sending has a span where the record belongs to a trace; else its headers stay as they are.

        Raises:
            Unavailable: The broker did not acknowledge it.

        """
        (stands,) = await self._publish([(topic, record)], traced=traced)
        return stands

    async def dead_letter(self, record: Record, *, origin: str, error: str) -> None:
        """Put a message that can't be handled aside, with its bytes and headers as they came.

        One that is too large with what is added loses its end; the header ``tidegate-truncated`` has its size then.

        Raises:
            Unavailable: The broker did not acknowledge it.

        """
        extra = (("tidegate-error", error.encode()), ("tidegate-origin", origin.encode()))
        set_aside = _fitting(Record(key=record.key, value=record.value, headers=(*record.headers, *extra)))
        await self.publish_record(DEAD_LETTER.full_name(self._settings.topic_prefix), set_aside, traced=False)

    async def _publish(self, records: Iterable[tuple[str, Record]], *, traced: bool = True) -> list[tuple[int, int]]:
        futures = []
        topics: Counter[str] = Counter()
        with ExitStack() as spans:
            for topic, record in records:
                sent = spans.enter_context(sending(topic, record)) if traced else record
                futures.append(await self._send(topic, sent))
                topics[topic] += 1
            stands = await self._acknowledged(futures)
        for topic, count in topics.items():
            EVENTS_PRODUCED.labels(topic_label(topic)).inc(count)
        return stands

    async def _send(self, topic: str, record: Record) -> asyncio.Future[RecordMetadata]:
        try:
            future: asyncio.Future[RecordMetadata] = await self._producer.send(
                topic, value=record.value, key=record.key or None, headers=list(record.headers)
            )
        except KafkaError as error:
            raise self._failure(f"could not produce to {topic}: {error}", error) from error
        return future

    async def _acknowledged(self, futures: list[asyncio.Future[RecordMetadata]]) -> list[tuple[int, int]]:
        try:
            records = [await future for future in futures]
            return [(int(record.partition), int(record.offset)) for record in records]
        except KafkaError as error:
            raise self._failure(f"the broker did not acknowledge: {error}", error) from error

    def _failure(self, message: str, error: KafkaError) -> TidegateError:
        if is_forbidden(error):
            return forbidden(self._settings, error, what="publish there")
        return Unavailable(message, code="BROKER_UNAVAILABLE")


def _fitting(record: Record) -> Record:
    """Return ``record``, cut to what the broker takes: it must go somewhere, or the stream would stand still."""
    around = len(record.key) + sum(len(name) + len(value) + HEADER_OVERHEAD for name, value in record.headers)
    room = MESSAGE_BYTES_MAX - RECORD_OVERHEAD - around
    if len(record.value) <= room:
        return record
    size = ("tidegate-truncated", str(len(record.value)).encode())
    if room >= 0:
        return Record(key=record.key, value=record.value[:room], headers=(*record.headers, size))
    ours = tuple(one for one in record.headers if one[0].startswith("tidegate-"))
    return Record(key=record.key[:KEY_KEPT], value=b"", headers=(*ours, size))
