"""Catching up with a real broker: what has expired, who is in the way, what a topic lost, and a broker that is silent."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from sqlalchemy import select

from tidegate.contracts.principals import REGISTRY_PRINCIPAL
from tidegate.contracts.topics import POLICIES, REGISTRY, TRAINING
from tidegate.core.bus import EventProducer, create_topics
from tidegate.core.errors import Unavailable
from tidegate.core.policy import default_policy
from tidegate.registry.catalog.aliases import AliasMove, move_alias
from tidegate.registry.catalog.outbox import Cause
from tidegate.registry.catalog.policies import apply_policy
from tidegate.registry.catalog.tables import outbox
from tidegate.registry.eventlog import catchup
from tidegate.registry.eventlog.bus_admin import read_bus_id, read_input_offsets, rewind_inputs
from tidegate.registry.eventlog.catchup import catch_up
from tidegate.registry.eventlog.positions import RESTORED, read_fact, read_positions
from tidegate.registry.eventlog.relay import OutboxRelay
from tidegate.registry.eventlog.topic_reader import TopicReader, reading
from tidegate.registry.store import Store
from tidegate.v1.events_pb2 import TrainingCompleted
from tidegate.v1.values_pb2 import Version


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'registry.sqlite3'}")
    store.migrate()
    yield store
    store.close()


def cause(name: str) -> Cause:
    return Cause(id=name, correlation_id=name, actor="test")


async def live(store, kafka) -> None:
    """Have the registry's topics hold what a registry with this database said."""
    await catch_up(store, kafka)

    def act(connection):
        for number in range(5):
            move = AliasMove(model="red", alias="golden", version=Version(major=1, minor=number))
            move_alias(connection, move, cause=cause(f"move {number}"))
            policy = default_policy("red")
            policy.rollout.settle_s = 10 + number
            apply_policy(connection, policy, cause(f"policy {number}"))

    await store.write(act)
    bus = await asyncio.to_thread(read_bus_id, kafka)
    async with EventProducer(kafka, client_id="test-relay") as producer:
        relay = OutboxRelay(store, producer, topic_prefix=kafka.topic_prefix, bus=bus)
        while await relay.publish_batch():
            pass


async def waiting(store) -> list[tuple[str, str]]:
    statement = select(outbox.c.topic, outbox.c.event_id).where(outbox.c.published.is_(False)).order_by(outbox.c.id)
    return [tuple(row) for row in await store.read(lambda connection: connection.execute(statement).all())]


async def read_trainings(kafka, count: int) -> None:
    """Have the registry's group read ``count`` trainings of one model."""
    from registrations import event

    name = TRAINING.full_name(kafka.topic_prefix)
    async with EventProducer(kafka, client_id="test-trainings") as producer:
        for _ in range(count):
            await producer.publish(event(TrainingCompleted(model="red"), source="test"))
    consumer = await _member(kafka)
    try:
        read = 0
        async with asyncio.timeout(60):
            while read < count:
                read += sum(len(one) for one in (await consumer.getmany(timeout_ms=200)).values())
        await consumer.commit()
    finally:
        await consumer.stop()
    assert sum((await asyncio.to_thread(read_input_offsets, kafka))[name].values()) == count


async def _member(kafka) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(
        TRAINING.full_name(kafka.topic_prefix),
        bootstrap_servers=kafka.bootstrap,
        group_id=REGISTRY_PRINCIPAL.consumer_group(kafka.topic_prefix),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    return consumer


def administer(kafka, work):
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap, client_id="test-admin")
    try:
        return work(admin)
    finally:
        admin.close()


async def test_inputs_that_have_expired_are_read_from_where_they_begin(bus_settings):
    await read_trainings(bus_settings, 4)
    name = TRAINING.full_name(bus_settings.topic_prefix)
    offsets = (await asyncio.to_thread(read_input_offsets, bus_settings))[name]
    (number,) = [number for number, offset in offsets.items() if offset == 4]
    expired = {TopicPartition(name, number): 2}
    await asyncio.to_thread(administer, bus_settings, lambda admin: admin.delete_records(expired))
    assert await asyncio.to_thread(rewind_inputs, bus_settings, {}) == {name: {number: 2}}
    assert (await asyncio.to_thread(read_input_offsets, bus_settings))[name][number] == 2
    # Once more, from there: nothing to do, and nobody in the way.
    assert await asyncio.to_thread(rewind_inputs, bus_settings, {name: {number: 2}}) == {}


async def test_a_rewind_that_could_not_be_done_is_done_at_the_next_try(store, bus_settings, tmp_path, monkeypatch):
    await live(store, bus_settings)
    await read_trainings(bus_settings, 3)
    behind = Store(f"sqlite:///{tmp_path / 'behind.sqlite3'}")
    behind.migrate()
    member = await _member(bus_settings)
    try:
        with pytest.raises(Unavailable, match="a registry is in it still") as caught:
            await catch_up(behind, bus_settings)
        assert caught.value.code == "GROUP_IN_USE"
    finally:
        await member.stop()
    # Nothing is new to it now, and its inputs are owed still.
    assert await behind.read(lambda connection: read_fact(connection, RESTORED))
    learnt = await catch_up(behind, bus_settings)
    assert (learnt.applied, learnt.rewound) == (0, 1)
    offsets = await asyncio.to_thread(read_input_offsets, bus_settings)
    assert set(offsets[TRAINING.full_name(bus_settings.topic_prefix)].values()) == {0}
    # And only once.
    monkeypatch.setattr(catchup, "rewind_inputs", None)
    assert (await catch_up(behind, bus_settings)).rewound == 0
    behind.close()


async def test_what_a_topic_lost_is_sent_again(store, bus_settings):
    await live(store, bus_settings)
    assert await waiting(store) == []
    names = [topic.full_name(bus_settings.topic_prefix) for topic in (REGISTRY, POLICIES)]
    await asyncio.to_thread(administer, bus_settings, lambda admin: admin.delete_topics(names))
    await asyncio.to_thread(_create_again, bus_settings, set(names))
    learnt = await catch_up(store, bus_settings)
    assert learnt.applied == 0
    lost = await waiting(store)
    # Five moves, and of the policies the last one.
    assert sorted(topic for topic, _ in lost) == ["policies", *["registry"] * 5]
    bus = learnt.bus
    positions = await store.read(lambda connection: read_positions(connection, bus, names[0]))
    assert set(positions.values()) == {0}
    # Sent once; the next start finds all in order.
    async with EventProducer(bus_settings, client_id="test-relay") as producer:
        await OutboxRelay(store, producer, topic_prefix=bus_settings.topic_prefix, bus=bus).publish_batch()
    await catch_up(store, bus_settings)
    assert await waiting(store) == []
    fresh = await _events(bus_settings)
    assert len(fresh) == 5


def _create_again(kafka, names) -> None:
    import time

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if names <= set(create_topics(kafka)):
                return
        except Exception:  # noqa: BLE001  (a topic that is being deleted can't be made yet)
            time.sleep(0.1)
    pytest.fail(f"not created again: {names}")


async def _events(kafka) -> list[str]:
    async with reading(kafka, REGISTRY) as reader:
        return [event.id async for events, _ in reader.batches({}) for event in events]


class SilentConsumer:
    """A consumer whose broker is gone."""

    def seek(self, partition, offset):
        pass

    async def position(self, partition):
        return 0

    async def getmany(self, *partitions, timeout_ms, max_records):
        await asyncio.sleep(0.01)
        return {}


async def test_a_silent_broker_is_told():
    reader = TopicReader(SilentConsumer(), "t", first={0: 0}, ends={0: 7})
    async with asyncio.timeout(60):
        with pytest.raises(Unavailable, match=r"nothing of t has come for 0\.05 s, partition 0 at 0 of 7") as caught:
            await anext(reader.batches({}, stalled_s=0.05))
    assert caught.value.code == "BROKER_UNAVAILABLE"
