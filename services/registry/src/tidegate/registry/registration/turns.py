"""A writer's turn: of those who register versions of one model, one at a time decides, stores and commits.

Without turns each writer decides from a line that the others move meanwhile, and of 32 at once most give up.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final
from weakref import WeakValueDictionary

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

from tidegate.registry.store import translated_errors

# The first half of PostgreSQL's two-part advisory locks; the second half is the model's.
TURN_LOCK: Final = 7_404_002
# Longer than a turn may take; whoever waits longer in PostgreSQL is told that the database is away, and tries again.
TURN_WAIT_MS: Final = 60_000
# Turns of other processes are waited for on connections of their own, so that no writer waits for its own pool.
TURNS_AT_ONCE_MAX: Final = 16


class Turns:
    """Turns by model, first come first served in this process; on PostgreSQL also among processes.

    One SQLite file has one process, so that its lock is the only one. Who is cancelled while it waits gives its place
    up; a process that dies in its turn loses it with its connection.
    """

    def __init__(self, engine: Engine) -> None:
        is_shared = engine.dialect.name != "sqlite"
        self._shared = create_engine(engine.url, poolclass=NullPool) if is_shared else None
        self._places = asyncio.Semaphore(TURNS_AT_ONCE_MAX)
        # The locks live as long as somebody holds or waits.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, model: str) -> AsyncIterator[None]:
        """Have the turn of ``model`` while the block runs.

        Raises:
            Unavailable: The database is away, or another process kept the turn for TURN_WAIT_MS.

        """
        lock = self._locks.setdefault(model, asyncio.Lock())
        async with lock:
            if self._shared is None:
                yield
                return
            async with self._places, _held(self._shared, model):
                yield


@asynccontextmanager
async def _held(engine: Engine, model: str) -> AsyncIterator[None]:
    taking = asyncio.ensure_future(asyncio.to_thread(_take, engine, model))
    try:
        connection = await asyncio.shield(taking)
    except asyncio.CancelledError:
        # The thread goes on waiting; what it gets then is given back.
        taking.add_done_callback(_give_back)
        raise
    try:
        yield
    finally:
        await asyncio.to_thread(connection.close)


def _take(engine: Engine, model: str) -> Connection:
    with translated_errors():
        connection = engine.connect()
        try:
            connection.execute(text(f"SET LOCAL lock_timeout = {TURN_WAIT_MS}"))
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:turns, :model)"), {"turns": TURN_LOCK, "model": _key(model)}
            )
        except BaseException:
            connection.close()
            raise
        return connection


def _give_back(taking: asyncio.Future[Connection]) -> None:
    if not taking.cancelled() and taking.exception() is None:
        with suppress(RuntimeError):
            taking.get_loop().run_in_executor(None, taking.result().close)


def _key(model: str) -> int:
    """Return the model as a signed 32-bit number; two models that share one only wait for each other."""
    return int.from_bytes(hashlib.sha256(model.encode()).digest()[:4], "big", signed=True)
