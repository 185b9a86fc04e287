"""The outbox relay: what was committed is published, in order, at least once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog
from sqlalchemy import Connection, delete, func, select, update

from tidegate.contracts.codec import Record
from tidegate.core.clock import utc_now
from tidegate.core.errors import TidegateError
from tidegate.core.streams import retrying
from tidegate.registry.catalog.tables import outbox
from tidegate.registry.eventlog.positions import write_positions
from tidegate.registry.metrics import OUTBOX_AGE, OUTBOX_EVENTS
from tidegate.registry.store import Store

BATCH_ROWS: Final = 200
# Rows of another process, or of this one before a crash, wake nobody up.
LOOK_AGAIN_S: Final = 1.0
PUBLISHED_ROWS_KEPT: Final = 10_000
MEASURE_S: Final = 2.0

log = structlog.get_logger(__name__)


class Publisher(Protocol):
    """What the relay needs of an event producer."""

    async def publish_record(self, topic: str, record: Record) -> tuple[int, int]:
        """Publish to the topic named in full; return partition and offset (-1: unknown) when acknowledged."""


class OutboxRelay:
    """Publishes the outbox in the order of its ids; a row is marked only after the broker has it.

    A crash in between publishes it again, under the same event id, so that consumers tell it apart.
    """

    def __init__(self, store: Store, publisher: Publisher, *, topic_prefix: str, bus: str) -> None:
        self._store = store
        self._publisher = publisher
        self._prefix = topic_prefix
        self._bus = bus

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            self._store.written.clear()
            published = 1
            while published:
                published = await self.publish_batch()
            try:
                await asyncio.wait_for(self._store.written.wait(), LOOK_AGAIN_S)
            except TimeoutError:
                continue

    async def drain(self, within_s: float) -> None:
        """Publish what waits before the process stops; what does not leave within the time goes at the next start."""
        try:
            async with asyncio.timeout(within_s):
                while await self.publish_batch():
                    pass
        except (TimeoutError, TidegateError) as error:
            log.warning("events wait in the outbox until the next start", waited_s=within_s, error=str(error))

    async def measure_for_ever(self) -> None:
        """Keep the metrics of the outbox, also while the broker is away."""
        while True:
            await retrying(self._measure, what="outbox metrics")
            await asyncio.sleep(MEASURE_S)

    async def _measure(self) -> None:
        count, oldest = await self._store.read(_waiting)
        OUTBOX_EVENTS.set(count)
        OUTBOX_AGE.set(0.0 if oldest is None else max(0.0, (utc_now() - oldest).total_seconds()))

    async def publish_batch(self) -> int:
        """Publish the next rows and return how many; retried while broker or database are away."""
        count = 0

        async def attempt() -> None:
            nonlocal count
            count = await self._publish_batch()

        await retrying(attempt, what="outbox")
        return count

    async def _publish_batch(self) -> int:
        rows = await self._store.read(_unpublished)
        done: list[int] = []
        stands: dict[str, dict[int, int]] = {}
        try:
            for row_id, topic, record in rows:
                name = f"{self._prefix}.{topic}"
                partition, offset = await self._publisher.publish_record(name, record)
                done.append(row_id)
                if offset >= 0:
                    stands.setdefault(name, {})[partition] = offset + 1
        finally:
            # What was acknowledged before a failure is not sent again.
            if done:
                await self._store.write(lambda connection: _mark(connection, done, self._bus, stands))
                self._store.written.clear()
        return len(done)


def _unpublished(connection: Connection) -> list[tuple[int, str, Record]]:
    columns = (outbox.c.id, outbox.c.topic, outbox.c.key, outbox.c.value, outbox.c.headers)
    rows = connection.execute(
        select(*columns).where(outbox.c.published.is_(False)).order_by(outbox.c.id).limit(BATCH_ROWS)
    )
    return [
        (
            row.id,
            row.topic,
            Record(
                key=bytes(row.key),
                value=bytes(row.value),
                headers=tuple((name, text.encode()) for name, text in json.loads(row.headers)),
            ),
        )
        for row in rows
    ]


def _waiting(connection: Connection) -> tuple[int, datetime | None]:
    """Return how many rows are not published, and when the first of them was committed."""
    row = connection.execute(
        select(func.count(), func.min(outbox.c.create_time)).where(outbox.c.published.is_(False))
    ).one()
    oldest: datetime | None = row[1]
    # SQLite keeps no time zone.
    return int(row[0]), oldest.replace(tzinfo=UTC) if oldest is not None and oldest.tzinfo is None else oldest


def _mark(connection: Connection, row_ids: list[int], bus: str, stands: Mapping[str, Mapping[int, int]]) -> None:
    for name, offsets in stands.items():
        write_positions(connection, bus, name, offsets)
    connection.execute(update(outbox).where(outbox.c.id.in_(row_ids)).values(published=True))
    # The topics keep the events; the outbox keeps the last ones, for people who look after a crash.
    connection.execute(delete(outbox).where(outbox.c.published, outbox.c.id < row_ids[-1] - PUBLISHED_ROWS_KEPT))
