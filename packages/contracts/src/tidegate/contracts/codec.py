"""Events as Kafka messages: CloudEvents 1.0 in binary mode (Kafka protocol binding), protobuf or JSON bodies.

Source: CloudEvents 1.0.2, Kafka Protocol Binding, section 3.2 (binary content mode).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf import descriptor_pool, json_format
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from tidegate.contracts.topics import TOPIC_BY_MESSAGE
from tidegate.v1 import (  # noqa: F401  (imported so that every message is in the symbol database)
    events_pb2,
    monitoring_events_pb2,
    rollout_events_pb2,
)

TYPE_PREFIX: Final = "tidegate.v1."
PROTOBUF: Final = "application/protobuf"
JSON: Final = "application/json"
EVENT_ID_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "events.tidegate")


class InvalidEvent(ValueError):  # noqa: N818  (named for what it is, as in arroyo)
    """A Kafka message is not an event of the contract; ``code`` is a stable reason code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event; ``message`` is a generated message of ``tidegate.v1``, ``time`` is aware UTC.

    ``partition`` and ``offset`` say where a consumed event stood (-1: it was not consumed); they do not tell events
    apart.
    """

    message: Message
    id: str
    source: str
    time: datetime
    subject: str
    correlation_id: str
    causation_id: str = ""
    sequence: int = 0
    traceparent: str = ""
    partition: int = field(default=-1, compare=False)
    offset: int = field(default=-1, compare=False)

    @property
    def type(self) -> str:
        """Return the short type: the name of the message."""
        return self.message.DESCRIPTOR.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A Kafka message as bytes; header names are lower case."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = field(default=())


def derived_event_id(event_type: str, causation_id: str, number: int = 0) -> str:
    """Return the id of the ``number``-th event of this type that an event caused; the same cause gives the same id."""
    return str(uuid.uuid5(EVENT_ID_NAMESPACE, f"{event_type}|{causation_id}|{number}"))


def timed_event_id(event_type: str, rollout_id: str, sequence: int) -> str:
    """Return the id of an event that time caused."""
    return str(uuid.uuid5(EVENT_ID_NAMESPACE, f"{event_type}|{rollout_id}|{sequence}"))


def offset_event_id(topic: str, partition: int, offset: int) -> str:
    """Return the id of an outsider's event that brought none."""
    return str(uuid.uuid5(EVENT_ID_NAMESPACE, f"{topic}/{partition}/{offset}"))


def format_time(time: datetime) -> str:
    """Return ``time`` as RFC 3339 in UTC with microseconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def encode(event: Event, *, content_type: str = PROTOBUF) -> Record:
    """Return ``event`` as a Kafka message, keyed by its subject (the model)."""
    if content_type == JSON:
        value = json_format.MessageToJson(event.message, preserving_proto_field_name=True, indent=None).encode()
    else:
        value = event.message.SerializeToString(deterministic=True)
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event.id,
        "ce_source": event.source,
        "ce_type": TYPE_PREFIX + event.type,
        "ce_subject": event.subject,
        "ce_time": format_time(event.time),
        "ce_correlationid": event.correlation_id,
        "ce_causationid": event.causation_id,
        "ce_sequence": str(event.sequence) if event.sequence else "",
        "traceparent": event.traceparent,
        "content-type": content_type,
    }
    return Record(
        key=event.subject.encode(),
        value=value,
        headers=tuple((name, text.encode()) for name, text in headers.items() if text),
    )


def decode(
    *,
    topic: str,
    partition: int,
    offset: int,
    value: bytes | None,
    headers: Iterable[tuple[str, bytes]] | Mapping[str, bytes] | None,
    received_time: datetime,
) -> Event:
    """Return the event in a Kafka message; ``topic`` is the full name.

    ``received_time`` stands in for a missing ce_time.

    Raises:
        InvalidEvent: The message lacks ``ce_type``, or its body is not the message that the type names.

    """
    attributes = _attributes(headers)
    message = _parse_body(attributes, value or b"")
    event_id = attributes.get("ce_id") or offset_event_id(topic, partition, offset)
    return Event(
        message=message,
        id=event_id,
        source=attributes.get("ce_source", "unknown"),
        time=_parse_time(attributes.get("ce_time"), received_time),
        subject=str(getattr(message, "model", "")) or attributes.get("ce_subject", ""),
        correlation_id=attributes.get("ce_correlationid") or event_id,
        causation_id=attributes.get("ce_causationid", ""),
        sequence=_parse_sequence(attributes.get("ce_sequence")),
        traceparent=attributes.get("traceparent", ""),
        partition=partition,
        offset=offset,
    )


def decode_record(record: Any, *, received_time: datetime) -> Event:
    """Return the event in a record as aiokafka and kafka-python hand it out; otherwise as :func:`decode`.

    Raises:
        InvalidEvent: The record is no event.

    """
    return decode(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        value=record.value,
        headers=record.headers,
        received_time=received_time,
    )


def _attributes(headers: Iterable[tuple[str, bytes]] | Mapping[str, bytes] | None) -> dict[str, str]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    try:
        return {name.lower(): bytes(raw).decode() for name, raw in pairs if raw is not None}
    except UnicodeDecodeError as error:
        raise InvalidEvent("HEADER_NOT_TEXT", f"a header is not UTF-8: {error}") from None


def _parse_body(attributes: Mapping[str, str], value: bytes) -> Message:
    full_type = attributes.get("ce_type")
    if not full_type:
        raise InvalidEvent(
            "EVENT_TYPE_MISSING", "header ce_type is missing, expected the name of a tidegate.v1 message"
        )
    name = full_type.removeprefix(TYPE_PREFIX)
    topic = TOPIC_BY_MESSAGE.get(name)
    if topic is None:
        raise InvalidEvent(
            "EVENT_TYPE_UNKNOWN", f"header ce_type is {full_type!r}, which names no event of the contract"
        )
    content_type = attributes.get("content-type", PROTOBUF).partition(";")[0].strip().lower()
    instance: Message = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(TYPE_PREFIX + name))()
    try:
        if content_type == JSON and topic.accepts_json:
            json_format.Parse(value, instance, ignore_unknown_fields=True)
        else:
            instance.ParseFromString(value)
    except (DecodeError, json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEvent(
            "BODY_UNREADABLE", f"the body ({len(value)} bytes, {content_type}) is not a {name}: {error}"
        ) from None
    return instance


def _parse_time(text: str | None, received_time: datetime) -> datetime:
    if not text:
        return received_time
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidEvent("TIME_UNREADABLE", f"header ce_time is {text!r}, expected RFC 3339") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _parse_sequence(text: str | None) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise InvalidEvent("SEQUENCE_UNREADABLE", f"header ce_sequence is {text!r}, expected a decimal number")
    return int(text)
