"""The database, on SQLite and on PostgreSQL: migrations, the outbox and its relay, requests, sequences."""

from __future__ import annotations

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_mock_engine, select

from tidegate.core.errors import AlreadyExists, Conflict, Unavailable
from tidegate.registry.catalog.aliases import AliasMove, move_alias
from tidegate.registry.catalog.handled import RequestKey, mark_consumed, recall, remember, was_consumed
from tidegate.registry.catalog.outbox import Cause, advance_sequence, next_sequence
from tidegate.registry.catalog.tables import metadata, outbox
from tidegate.registry.eventlog.relay import OutboxRelay
from tidegate.registry.store import Store
from tidegate.v1.values_pb2 import Version


def sqlite_url(folder):
    return f"sqlite:///{folder / 'registry.sqlite3'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    return sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def store(url):
    store = Store(url)
    store.migrate()
    yield store
    store.close()


class Broker:
    """Remembers what was published; fails or is cut off where told."""

    def __init__(self):
        self.ids: list[str] = []
        self.failures = 0
        self.cut_off_after = -1
        self.published = asyncio.Event()

    async def publish_record(self, topic, record):
        if self.failures:
            self.failures -= 1
            raise Unavailable("the broker is away")
        self.ids.append(dict(record.headers)["ce_id"].decode())
        self.published.set()
        if len(self.ids) == self.cut_off_after:
            # The broker has it, but the process dies before it knows.
            raise asyncio.CancelledError
        return 0, len(self.ids) - 1


def cause(name: str) -> Cause:
    return Cause(id=name, correlation_id=name, actor="test")


async def put(store, *names):
    for number, name in enumerate(names):
        move = AliasMove(model="m", alias="a", version=Version(major=1, minor=number, pipeline=len(name)))
        await store.write(lambda connection, move=move, name=name: move_alias(connection, move, cause=cause(name)))


def test_migrations_make_the_tables(store):
    with store.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    store.migrate()


def test_the_tables_can_be_written_for_postgresql():
    statements = []
    engine = create_mock_engine(
        "postgresql+psycopg://", lambda sql, *_, **__: statements.append(str(sql.compile(dialect=engine.dialect)))
    )
    metadata.create_all(engine, checkfirst=False)
    assert any("BIGSERIAL" in statement for statement in statements)


def test_sqlite_is_durable(tmp_path):
    store = Store(sqlite_url(tmp_path))
    with store.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
    store.close()


async def test_an_aborted_transaction_leaves_nothing(store):
    def fail(connection):
        move_alias(connection, AliasMove(model="m", alias="a", version=Version(major=1)), cause=cause("x"))
        raise Conflict("too late")

    with pytest.raises(Conflict):
        await store.write(fail)
    assert await store.read(lambda connection: connection.execute(select(outbox)).all()) == []


async def test_the_outbox_is_published_in_order(store):
    broker = Broker()
    await put(store, "1", "2", "3")
    relay = OutboxRelay(store, broker, topic_prefix="t", bus="b")
    assert await relay.publish_batch() == 3
    assert await relay.publish_batch() == 0
    assert len(set(broker.ids)) == 3


async def test_a_crash_between_publish_and_mark_repeats_but_never_loses(store):
    broker = Broker()
    await put(store, "1", "2", "3")
    broker.cut_off_after = 2
    with pytest.raises(asyncio.CancelledError):
        await OutboxRelay(store, broker, topic_prefix="t", bus="b").publish_batch()
    broker.cut_off_after = -1
    await OutboxRelay(store, broker, topic_prefix="t", bus="b").publish_batch()
    first, second, again, third = broker.ids
    assert second == again
    assert len({first, second, third}) == 3


async def test_an_outage_of_the_broker_only_delays(store):
    broker = Broker()
    broker.failures = 2
    await put(store, "1", "2")
    relay = OutboxRelay(store, broker, topic_prefix="t", bus="b")
    assert await relay.publish_batch() == 2


async def test_what_waits_leaves_before_the_end_but_does_not_delay_it_for_ever(store):
    broker = Broker()
    await put(store, *(str(number) for number in range(5)))
    relay = OutboxRelay(store, broker, topic_prefix="t", bus="b")
    broker.failures = 1_000_000
    async with asyncio.timeout(60):
        await relay.drain(0.2)
    assert broker.ids == []
    broker.failures = 0
    await relay.drain(60)
    assert len(broker.ids) == 5


async def test_new_rows_wake_the_relay(store):
    broker = Broker()
    running = asyncio.create_task(OutboxRelay(store, broker, topic_prefix="t", bus="b").run())
    try:
        for name in ("1", "22", "333"):
            broker.published.clear()
            await put(store, name)
            await asyncio.wait_for(broker.published.wait(), 20)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(broker.ids) == 3


async def test_a_request_is_remembered_and_its_id_not_lent(store):
    key = RequestKey(scope="s", request_id="r", body_digest="d")
    await store.write(lambda connection: remember(connection, key, b"answer"))
    assert await store.read(lambda connection: recall(connection, key)) == b"answer"
    with pytest.raises(AlreadyExists) as caught:
        await store.read(
            lambda connection: recall(connection, RequestKey(scope="s", request_id="r", body_digest="other"))
        )
    assert caught.value.code == "REQUEST_ID_REUSED"
    with pytest.raises(Conflict):
        await store.write(lambda connection: remember(connection, key, b"answer"))


async def test_sequences_count_up_and_old_ones_are_seen(store):
    assert [await store.write(lambda connection: next_sequence(connection, "m")) for _ in range(3)] == [1, 2, 3]
    newer = [
        await store.write(lambda connection, value=value: advance_sequence(connection, "m", "deployer", value))
        for value in (5, 4, 5, 6)
    ]
    assert newer == [True, False, True, True]


async def test_consumed_events_are_remembered(store):
    await store.write(lambda connection: mark_consumed(connection, "e"))
    assert await store.read(lambda connection: was_consumed(connection, "e"))
    assert not await store.read(lambda connection: was_consumed(connection, "f"))


async def test_writers_of_several_processes_take_turns(url, store):
    others = [Store(url) for _ in range(3)]
    try:
        writes = [one.write(lambda connection: next_sequence(connection, "m")) for one in (store, *others) * 10]
        values = await asyncio.gather(*writes)
    finally:
        for other in others:
            other.close()
    assert sorted(values) == list(range(1, 41))


async def test_a_writer_does_not_wait_for_ever(url, store):
    patient = Store(url, busy_timeout_ms=200)
    try:
        with store.writing(), pytest.raises(Unavailable):
            await patient.write(lambda connection: next_sequence(connection, "m"))
        assert await patient.write(lambda connection: next_sequence(connection, "m")) == 1
    finally:
        patient.close()


async def test_rows_become_visible_in_the_order_of_their_ids(url, store):
    # Given a relay that reads by id, no transaction may commit a lower id after a higher one was seen.
    others = [Store(url) for _ in range(3)]
    seen: list[int] = []

    async def look():
        ids = await store.read(lambda connection: [row.id for row in connection.execute(select(outbox.c.id))])
        assert sorted(ids)[: len(seen)] == seen, "an id came late"
        seen[:] = sorted(ids)

    try:
        writes = [put(one, "x" * number) for number, one in enumerate((store, *others) * 8, start=1)]
        writing = asyncio.gather(*writes)
        while not writing.done():
            await look()
            await asyncio.sleep(0)
        await writing
        await look()
    finally:
        for other in others:
            other.close()
    assert len(seen) == len(writes)


async def test_many_writers_take_turns(store):
    values = await asyncio.gather(*(store.write(lambda connection: next_sequence(connection, "m")) for _ in range(50)))
    assert sorted(values) == list(range(1, 51))
