"""The database: its connections and transactions.

SQLite (write-ahead log, synchronous FULL) has one writer by itself; on PostgreSQL an advisory lock makes it so, since
the relay reads the outbox by id and ids must become visible in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tidegate.core.errors import Conflict, Unavailable
from tidegate.registry.catalog.schema import migrate_to

BUSY_TIMEOUT_MS: Final = 10_000
# A process that vanished with its machine keeps the writer's lock until its connection counts as dead.
IDLE_IN_TRANSACTION_MS: Final = 60_000
CONNECT_S: Final = 5
KEEPALIVE: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
WRITER_LOCK: Final = 7_404_001

R = TypeVar("R")


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
