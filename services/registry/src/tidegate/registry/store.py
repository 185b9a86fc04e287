"""The database: transactions, the outbox, and what was already handled.

SQLite (write-ahead log, synchronous FULL) has one writer by itself; on PostgreSQL an advisory lock makes it so, since
the relay reads the outbox by id and ids must become visible in order.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from google.protobuf.message import Message
from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tidegate.contracts.codec import EVENT_ID_NAMESPACE, Event, Record, encode
from tidegate.contracts.topics import TOPIC_BY_MESSAGE
from tidegate.core.clock import utc_now
from tidegate.core.errors import AlreadyExists, Conflict, InvalidInput, Unavailable
from tidegate.registry.catalog.schema import migrate_to
from tidegate.registry.catalog.tables import consumed, outbox, requests, sequences

SOURCE: Final = "tidegate/registry"
BUSY_TIMEOUT_MS: Final = 10_000
# A process that vanished with its machine keeps the writer's lock until its connection counts as dead.
IDLE_IN_TRANSACTION_MS: Final = 60_000
CONNECT_S: Final = 5
KEEPALIVE: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
WRITER_LOCK: Final = 7_404_001
ID_CHARS_MAX: Final = 200
# Below what the producer takes (900,000): headers of a trace are added later, and each record has its frame.
RECORD_BYTES_MAX: Final = 850_000

R = TypeVar("R")


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


class Store:
    """The registry's database; ``written`` is set after each commit, for the relay."""

    def __init__(self, url: str, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
        self.engine = _engine(url, busy_timeout_ms)
        self.written = asyncio.Event()
        self._is_sqlite = self.engine.dialect.name == "sqlite"
        self._writer = asyncio.Lock()

    def migrate(self) -> None:
        """Bring the tables up to date; blocking, repeatable.

        Raises:
            Unavailable: The database can't be reached.
            FailedPrecondition: A newer release made the tables (code SCHEMA_NEWER).

        """
        with self.writing() as connection:
            migrate_to(connection, "head")

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open the one write transaction; committed unless the block raises."""
        with translated_errors(), self.engine.connect() as plain:
            connection = plain.execution_options(tidegate_writes=True)
            with connection.begin():
                if not self._is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a read transaction: all queries see one state."""
        with translated_errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def snapshotting(self) -> Iterator[Connection]:
        """Open a read transaction that sees one state however long it lasts, while others write."""
        with translated_errors(), self.engine.connect() as plain:
            # SQLite's log gives that to every reader; PostgreSQL must be asked for it.
            level = {} if self._is_sqlite else {"isolation_level": "REPEATABLE READ"}
            connection = plain.execution_options(**level)
            with connection.begin():
                yield connection

    async def write(self, work: Callable[[Connection], R]) -> R:
        """Run ``work`` in a write transaction, in a thread.

        Raises:
            Conflict: A row exists already.
            Unavailable: The database is away or busy.

        """

        def transact() -> R:
            with self.writing() as connection:
                return work(connection)

        async with self._writer:
            result = await asyncio.to_thread(transact)
        self.written.set()
        return result

    async def read(self, work: Callable[[Connection], R]) -> R:
        """Run ``work``, which reads a row or two; on SQLite at once, since a thread would cost more than the query."""
        return self._read(work) if self._is_sqlite else await self.scan(work)

    async def scan(self, work: Callable[[Connection], R]) -> R:
        """Run ``work``, which reads many rows, in a thread: others are answered meanwhile."""
        return await asyncio.to_thread(self._read, work)

    def _read(self, work: Callable[[Connection], R]) -> R:
        with self.reading() as connection:
            return work(connection)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _engine(url: str, busy_timeout_ms: int) -> Engine:
    if not url.startswith("sqlite"):
        # Nobody waits for ever: not for a lock, and not for a server that is gone.
        limits = f"-c lock_timeout={busy_timeout_ms} -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MS}"
        arguments = {"connect_timeout": CONNECT_S, "options": limits, **KEEPALIVE}
        return create_engine(url, pool_pre_ping=True, connect_args=arguments)
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # Transactions are begun below, not by the driver.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("tidegate_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the database's errors into ours: Conflict for a row that exists, else Unavailable."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict(f"the row exists already: {error.orig}", code="ROW_EXISTS") from error
    except (DBAPIError, PoolTimeoutError) as error:
        raise Unavailable(f"the database failed: {error}", code="DATABASE_UNAVAILABLE") from error


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
