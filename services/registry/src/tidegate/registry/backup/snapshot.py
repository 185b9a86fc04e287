"""A consistent copy of the database as one SQLite file, and the way back, whatever database either side is.

Rows are copied within one read transaction, while registrations go on; PostgreSQL gives a repeatable read, SQLite's
write-ahead log does so by itself. The schema of a copy is made by our own migrations, at the revision of its source.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, MetaData, Table, create_engine, func, insert, inspect, select, text
from sqlalchemy.exc import DatabaseError

from tidegate.core.errors import FailedPrecondition, InvalidInput
from tidegate.registry.catalog.schema import clear_tables, migrate_to, read_revision
from tidegate.registry.store import Store

ROWS_AT_ONCE: Final = 500
# A database without rows in these holds nothing that a restore could destroy.
_TELLING: Final = ("models", "policies", "outbox", "requests")
_COUNTED: Final = ("models", "versions", "aliases", "policies")


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What a copy holds; ``last_outbox_id`` is the newest event that was written before it."""

    revision: str
    counts: dict[str, int]
    last_outbox_id: int


def write_snapshot(store: Store, path: Path) -> Snapshot:
    """Copy the database to a new SQLite file at ``path``; blocking, others go on reading and writing.

    Raises:
        FailedPrecondition: There are no tables.
        Unavailable: The database is away, or the file can't be written.

    """
    copy = Store(f"sqlite:///{path}")
    try:
        with store.snapshotting() as source:
            revision = read_revision(source)
            if not revision:
                raise FailedPrecondition(
                    "the database has no tables, expected those of a registry that has run",
                    code="DATABASE_EMPTY",
                    hint="is this the registry's data folder and database?",
                )
            with copy.writing() as target:
                migrate_to(target, revision)
                _copy_rows(source, target)
                found = _described(target, revision)
    finally:
        copy.close()
    # One file, without a log beside it.
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    return found


def load_snapshot(path: Path, target: Connection, *, overwrite: bool, discard_unpublished: bool = False) -> None:
    """Fill ``target``, in its open write transaction, with the copy at ``path``, and bring the tables forward.

    Raises:
        FailedPrecondition: The target is not empty and may not be overwritten, it holds events that were not published
            and may not be discarded, or the copy's schema is too new.
        InvalidInput: The file is no copy of a registry's database.

    """
    if not overwrite and (held := held_rows(target)):
        raise FailedPrecondition(
            f"the database is not empty: it has {held}",
            code="TARGET_NOT_EMPTY",
            hint="restore into an empty installation, or give --overwrite to replace what is there",
        )
    if not discard_unpublished and (waiting := _waiting_events(target)):
        raise FailedPrecondition(
            f"the database holds {waiting} events that were acknowledged and are not on the bus yet",
            code="TARGET_UNPUBLISHED",
            hint="start the registry and let it send them, or give --discard-unpublished to lose them",
        )
    with opened(path) as source:
        clear_tables(target)
        migrate_to(target, read_revision(source))
        _copy_rows(source, target)
    if target.dialect.name != "sqlite":
        _count_on(target)
    migrate_to(target, "head")


@contextmanager
def opened(path: Path) -> Iterator[Connection]:
    """Open the copy at ``path`` for reading.

    Raises:
        InvalidInput: It is no SQLite database with our tables.

    """
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    try:
        with engine.connect() as connection, connection.begin():
            if not read_revision(connection):
                raise InvalidInput(f"{path} holds no tables of a registry", code="SNAPSHOT_UNREADABLE")
            yield connection
    except DatabaseError as error:
        raise InvalidInput(f"{path} can't be read: {error.orig}", code="SNAPSHOT_UNREADABLE") from error
    finally:
        engine.dispose()


def _copy_rows(source: Connection, target: Connection) -> None:
    theirs, ours = _tables(source), _tables(target)
    for name, table in ours.items():
        rows = source.execute(select(*theirs[name].columns).execution_options(yield_per=ROWS_AT_ONCE))
        for batch in rows.mappings().partitions():
            target.execute(insert(table), [{key: _portable(value) for key, value in row.items()} for row in batch])


def _tables(connection: Connection) -> dict[str, Table]:
    """Return the tables as they are there, those that others refer to first."""
    metadata = MetaData()
    metadata.reflect(connection)
    return {table.name: table for table in metadata.sorted_tables if table.name != "alembic_version"}


def _portable(value: Any) -> Any:
    """Return times in UTC with their zone: SQLite drops it, PostgreSQL would guess it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return value


def _count_on(connection: Connection) -> None:
    """Have PostgreSQL number new rows after those that were copied."""
    for name, table in _tables(connection).items():
        for column in table.primary_key.columns:
            if column.autoincrement is True or (column.name == "id" and column.server_default is not None):
                highest = connection.execute(select(func.max(column))).scalar_one_or_none()
                statement = text("SELECT setval(pg_get_serial_sequence(:table, :column), :value, :used)")
                values = {"table": name, "column": column.name, "value": highest or 1, "used": highest is not None}
                connection.execute(statement, values)


def _described(connection: Connection, revision: str) -> Snapshot:
    tables = _tables(connection)

    def count(name: str) -> int:
        return int(connection.execute(select(func.count()).select_from(tables[name])).scalar_one())

    last = connection.execute(select(func.max(tables["outbox"].c.id))).scalar_one_or_none()
    return Snapshot(revision=revision, counts={name: count(name) for name in _COUNTED}, last_outbox_id=int(last or 0))


def held_rows(connection: Connection) -> str:
    """Say what a restore would replace; empty = nothing."""
    there = set(inspect(connection).get_table_names())
    tables = _tables(connection)
    counts = {
        name: int(connection.execute(select(func.count()).select_from(tables[name])).scalar_one())
        for name in _TELLING
        if name in there
    }
    return ", ".join(f"{count} rows in {name}" for name, count in counts.items() if count)


def _waiting_events(connection: Connection) -> int:
    if "outbox" not in inspect(connection).get_table_names():
        return 0
    table = _tables(connection)["outbox"]
    statement = select(func.count()).select_from(table).where(table.c.published.is_(False))
    return int(connection.execute(statement).scalar_one())
