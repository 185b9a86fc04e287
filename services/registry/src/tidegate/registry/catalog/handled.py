"""What was handled already: events by their ids, calls by their request ids."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection, insert, select

from tidegate.core.clock import utc_now
from tidegate.core.errors import AlreadyExists
from tidegate.registry.catalog.tables import consumed, requests


def was_consumed(connection: Connection, event_id: str) -> bool:
    """Say whether the event was handled before."""
    return connection.execute(select(consumed.c.event_id).where(consumed.c.event_id == event_id)).first() is not None


def mark_consumed(connection: Connection, event_id: str) -> None:
    """Remember that the event was handled, with what it caused, in the same transaction."""
    connection.execute(insert(consumed).values(event_id=event_id, create_time=utc_now()))


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestKey:
    """A call that may come again: ``scope`` is its method and model; no ``request_id``, no memory."""

    scope: str
    request_id: str
    body_digest: str = field(default="")


def recall(connection: Connection, key: RequestKey) -> bytes | None:
    """Return the answer that the same request got before.

    Raises:
        AlreadyExists: The id came with another body.

    """
    if not key.request_id:
        return None
    row = connection.execute(
        select(requests.c.body_digest, requests.c.response).where(
            requests.c.scope == key.scope, requests.c.request_id == key.request_id
        )
    ).first()
    if row is None:
        return None
    if row.body_digest != key.body_digest:
        raise AlreadyExists(
            f"request_id {key.request_id!r} was used before with another body",
            code="REQUEST_ID_REUSED",
            field="request_id",
            hint="use a new request_id for another request",
        )
    return bytes(row.response)


def remember(connection: Connection, key: RequestKey, response: bytes) -> None:
    """Keep the answer to a request for the next time it comes."""
    if key.request_id:
        row = {"scope": key.scope, "request_id": key.request_id, "body_digest": key.body_digest}
        connection.execute(insert(requests).values(**row, response=response, create_time=utc_now()))
