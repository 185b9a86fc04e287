"""The outbox: events are written with what they tell of, in one transaction, each with its cause and its sequence."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message
from sqlalchemy import Connection, insert, select, update

from tidegate.contracts.codec import EVENT_ID_NAMESPACE, Event, Record, encode
from tidegate.contracts.topics import TOPIC_BY_MESSAGE
from tidegate.core.clock import utc_now
from tidegate.core.errors import InvalidInput
from tidegate.registry.catalog.tables import outbox, sequences

SOURCE: Final = "tidegate/registry"
ID_CHARS_MAX: Final = 200
# Below what the producer takes (900,000): headers of a trace are added later, and each record has its frame.
RECORD_BYTES_MAX: Final = 850_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Why something is written: an event or a call; ids of derived events follow from ``id``."""

    id: str
    correlation_id: str
    actor: str
    traceparent: str = ""


def cause_of(event: Event) -> Cause:
    """Return an event as the cause of what is written because of it."""
    event_id = event.id
    if len(event_id) > ID_CHARS_MAX or not event_id.isprintable():
        # Outsiders choose their ids; ours fit the table.
        event_id = str(uuid.uuid5(EVENT_ID_NAMESPACE, event_id))
    return Cause(id=event_id, correlation_id=event.correlation_id, actor=event.source, traceparent=event.traceparent)


def next_sequence(connection: Connection, model: str, source: str = SOURCE) -> int:
    """Count up and return the sequence of ``model``'s events from ``source``."""
    where = (sequences.c.model == model) & (sequences.c.source == source)
    value = connection.execute(
        update(sequences).where(where).values(value=sequences.c.value + 1).returning(sequences.c.value)
    ).scalar_one_or_none()
    if value is None:
        connection.execute(insert(sequences).values(model=model, source=source, value=1))
        return 1
    return int(value)


def advance_sequence(connection: Connection, model: str, source: str, sequence: int) -> bool:
    """Remember ``sequence`` as the last one seen from ``source``; False if it is older.

    An equal one passes: events of one decision share a sequence, and repeats are told apart by their ids.
    """
    where = (sequences.c.model == model) & (sequences.c.source == source)
    last = connection.execute(select(sequences.c.value).where(where)).scalar_one_or_none()
    if last is None:
        connection.execute(insert(sequences).values(model=model, source=source, value=sequence))
        return True
    if sequence < last:
        return False
    connection.execute(update(sequences).where(where).values(value=sequence))
    return True


def add_event(
    connection: Connection,
    message: Message,
    *,
    cause: Cause,
    event_id: str,
    sequence: int,
) -> None:
    """Put an event into the outbox: it is published if and only if the transaction commits.

    Raises:
        InvalidInput: It is larger than the bus takes; in the outbox it would stop all that come after it.

    """
    now = utc_now()
    name = message.DESCRIPTOR.name
    record = encode(
        Event(
            message=message,
            id=event_id,
            source=SOURCE,
            time=now,
            subject=str(getattr(message, "model", "")),
            correlation_id=cause.correlation_id,
            causation_id=cause.id,
            sequence=sequence,
            traceparent=cause.traceparent,
        )
    )
    _check_size(record, name)
    headers = json.dumps([[header, raw.decode()] for header, raw in record.headers])
    row = {"event_id": event_id, "topic": TOPIC_BY_MESSAGE[name].name, "key": record.key, "value": record.value}
    connection.execute(insert(outbox).values(**row, headers=headers, published=False, create_time=now))


def _check_size(record: Record, name: str) -> None:
    size = len(record.key) + len(record.value) + sum(len(header) + len(raw) for header, raw in record.headers)
    if size > RECORD_BYTES_MAX:
        raise InvalidInput(
            f"the event {name} would have {size} bytes, at most {RECORD_BYTES_MAX} are sent",
            code="EVENT_TOO_LARGE",
            hint="shorten what it carries: signature, tags, card, or the policy",
        )
