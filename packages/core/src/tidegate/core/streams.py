"""Consuming with faust: at-least-once, one handler for several topics, and the four kinds of error.

Faust would take an event as handled also when its handler is cancelled, and commit it while it stops. So the loop below
says itself, after the handler returned, that an event is handled.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NoReturn

import faust
import structlog

from tidegate.contracts.codec import Event, InvalidEvent, Record, decode
from tidegate.contracts.topics import Topic
from tidegate.core.bus import EventProducer
from tidegate.core.clock import utc_now
from tidegate.core.errors import Conflict, InvalidInput, Unavailable
from tidegate.core.in_hand import InHand, Place
from tidegate.core.kafka_access import METADATA_AGE_MS_MAX, faust_credentials
from tidegate.core.kafka_consumer import passed_over, read_committed
from tidegate.core.metrics import EVENTS_DEAD_LETTERED, RETRIES, Handling, topic_label
from tidegate.core.settings import KafkaSettings
from tidegate.core.telemetry import handling

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_LONGEST_S: Final = 5.0
CONFLICT_TRIES: Final = 10
PASSED_OVER_EVERY_S: Final = 1.0
EXIT_CODE_UNEXPECTED: Final = 70

Handler = Callable[[Event], Awaitable[None]]

log = structlog.get_logger(__name__)


def create_app(app_id: str, kafka: KafkaSettings) -> faust.App:
    """Return a faust app for embedding: no web server, no topics of its own; the group ``app_id`` keeps the offsets."""
    app = faust.App(
        app_id,
        broker=f"aiokafka://{kafka.bootstrap.replace(',', ';')}",
        broker_credentials=faust_credentials(kafka),
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        broker_session_timeout=10,
        broker_heartbeat_interval=2,
        broker_commit_every=1,
        broker_commit_interval=0.5,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=METADATA_AGE_MS_MAX,
        producer_metadata_max_age_ms=METADATA_AGE_MS_MAX,
        stream_ack_cancelled_tasks=False,
        stream_ack_exceptions=False,
        stream_wait_empty=False,
    )
    read_committed(app)
    return app


def consume(
    app: faust.App,
    topics: Sequence[Topic],
    handle: Handler,
    *,
    kafka: KafkaSettings,
    producer: EventProducer,
    in_hand: InHand,
) -> None:
    """Have ``handle`` get every event of ``topics``, in order per partition.

    Messages that are no events, and events whose handler raises InvalidInput, go to the dead-letter topic;
    Unavailable is retried for ever with a bounded back-off; Conflict is retried a few times; anything else ends the
    process. So does what ends it without a word. An event that has ended two processes, by ``in_hand``, goes to the
    dead-letter topic, too.
    """
    names = [topic.full_name(kafka.topic_prefix) for topic in topics]
    measures = {name: Handling(name) for name in names}
    channel = app.topic(*names, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    async def agent(stream: Any) -> None:
        stream.enable_acks = False
        async for item in stream.events():
            await _handle_one(item, handle, producer, measures[item.message.topic], in_hand)
            await stream.ack(item)

    async def tell_passed_over() -> None:
        while True:
            await asyncio.sleep(PASSED_OVER_EVERY_S)
            await set_passed_over_aside(producer)

    app.task(tell_passed_over)
    app.agent(channel, name="-".join([app.conf.id, *(topic.name for topic in topics)]))(agent)


async def _handle_one(item: Any, handle: Handler, producer: EventProducer, measure: Handling, in_hand: InHand) -> None:
    message = item.message
    headers = message.headers.items() if isinstance(message.headers, dict) else message.headers or ()
    record = Record(
        key=bytes(message.key or b""),
        value=bytes(message.value or b""),
        headers=tuple((str(name), bytes(raw or b"")) for name, raw in headers),
    )
    place = Place(topic=message.topic, partition=message.partition, offset=message.offset)
    origin = str(place)

    async def attempt() -> None:
        with in_hand.holding(place):
            await handle(traced)

    try:
        in_hand.check(place)
        event = decode(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            value=record.value,
            headers=record.headers,
            received_time=utc_now(),
        )
        measure.take(origin, event.time)
        with handling(event, message.topic, in_hand.group) as traced:
            await retrying(attempt, what=origin, operation=topic_label(message.topic))
        measure.done(origin)
    except (InvalidEvent, InvalidInput) as error:
        await set_aside(producer, record, origin=origin, code=error.code, error=str(error))
        measure.drop(origin)
    except asyncio.CancelledError:
        measure.drop(origin)
        raise
    except Exception as error:
        log.exception("handler failed unexpectedly, the process ends", origin=origin)
        in_hand.failed(place, error)
        exit_unexpected()


async def set_aside(producer: EventProducer, record: Record, *, origin: str, code: str, error: str) -> None:
    """Put a message on the dead-letter topic, with why; ``origin`` is topic/partition/offset."""
    said = f"{code}: {error}"
    log.warning("message set aside", origin=origin, error=said)
    await retrying(
        lambda: producer.dead_letter(record, origin=origin, error=said), what=origin, operation="dead-letter"
    )
    EVENTS_DEAD_LETTERED.labels(topic_label(origin.partition("/")[0]), code).inc()


async def set_passed_over_aside(producer: EventProducer) -> None:
    """Tell on the dead-letter topic of the batches that could not be decoded: where they stood, not their bytes."""
    for passed in passed_over():
        origin = f"{passed.topic}/{passed.partition}/{passed.offset}"
        until = f"offsets {passed.offset} to {passed.next_offset - 1}, codec {passed.codec}"
        empty = Record(key=b"", value=b"", headers=())
        await set_aside(producer, empty, origin=origin, code="BATCH_UNREADABLE", error=f"{until}: {passed.error}")


async def retrying(call: Callable[[], Awaitable[None]], *, what: str, operation: str = "") -> None:
    """Await ``call`` until it is not Unavailable; a Conflict is retried CONFLICT_TRIES times.

    ``what`` is logged; ``operation`` (default: ``what``) is what retries are counted by, one of a few names.
    """
    backoff_s = BACKOFF_FIRST_S
    conflicts = 0
    while True:
        try:
            return await call()
        except Unavailable as error:
            RETRIES.labels(operation or what, "unavailable").inc()
            log.warning("unavailable, trying again", what=what, error=str(error), backoff_s=backoff_s)
        except Conflict as error:
            conflicts += 1
            RETRIES.labels(operation or what, "conflict").inc()
            if conflicts >= CONFLICT_TRIES:
                raise
            log.info("conflict, deciding again", what=what, error=str(error))
        await asyncio.sleep(backoff_s)
        backoff_s = min(2 * backoff_s, BACKOFF_LONGEST_S)


def exit_unexpected() -> NoReturn:
    """End the process at once, without committing offsets: the supervisor starts it again."""
    os._exit(EXIT_CODE_UNEXPECTED)
