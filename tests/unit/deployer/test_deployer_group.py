"""A process that may have lost its partitions, or can't take them, ends instead of deciding on old beliefs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError

from tidegate.contracts.codec import PROTOBUF, Event, InvalidEvent, encode
from tidegate.core.clock import utc_now
from tidegate.core.errors import Refused
from tidegate.core.in_hand import InHand
from tidegate.core.settings import KafkaSettings
from tidegate.deployer import group as group_module
from tidegate.deployer.agents import PROXIES_SOURCE, QUEUE_MAX, Item, PartitionWorker
from tidegate.deployer.group import STALLED_S, WorkerGroup
from tidegate.v1.rollout_events_pb2 import RolloutCommand, RouteApplied

NOBODY_LISTENS = KafkaSettings(bootstrap="127.0.0.1:1", topic_prefix="test")


class Outbox:
    """Keeps what the group publishes by its producer."""

    def __init__(self):
        self.events = asyncio.Queue()

    async def publish(self, event):
        await self.events.put(event)


class Owner:
    """Stands for the worker of a partition: it owns every model."""

    def __init__(self):
        self.items = []

    def owns(self, model):
        return True

    def put_now(self, item):
        self.items.append(item)

    def tick(self):
        self.items.append("tick")


@pytest.fixture
async def group(tmp_path):
    made = WorkerGroup(
        kafka=NOBODY_LISTENS,
        producer=Outbox(),
        apply_route=lambda _table, _time: None,
        in_hand=InHand(tmp_path, "g"),
    )
    made._ticked_s = asyncio.get_running_loop().time()
    return made


@pytest.fixture
def ended(monkeypatch):
    """End the test's block where the process would end."""

    def end():
        raise SystemExit

    monkeypatch.setattr(group_module, "exit_unexpected", end)
    return pytest.raises(SystemExit)


async def test_a_process_that_stood_still_owns_nothing_and_ends(group, ended):
    owner = Owner()
    group._workers[0] = owner
    group.tick()
    assert group.owns("fraud")
    group._ticked_s -= STALLED_S + 1
    assert not group.owns("fraud")
    with ended:
        group.tick()
    assert owner.items == ["tick"]


async def test_partitions_that_cannot_be_taken_end_the_process(group, ended, monkeypatch):
    async def fail(_partition):
        raise ConnectionError("the broker has gone")

    monkeypatch.setattr(group, "_take", fail)
    with ended:
        await group.on_partitions_assigned([TopicPartition("test.registry", 0)])


async def test_partitions_that_are_not_taken_in_time_end_the_process(group, ended, monkeypatch):
    async def hang(_partition):
        await asyncio.Event().wait()

    monkeypatch.setattr(group, "_take", hang)
    monkeypatch.setattr(group_module, "TAKE_WITHIN_S", 0.01)
    with ended:
        await group.on_partitions_assigned([TopicPartition("test.registry", 0)])


async def test_what_proxies_say_reaches_the_owner_here(group):
    owner = Owner()
    group._workers[0] = owner
    applied = RouteApplied(model="fraud", epoch=1, revision=2, applied=["gateway-1"], complete=True)
    group.on_applied(applied)
    (item,) = owner.items
    assert item.applied == applied
    assert (item.event.epoch, item.event.revision) == (1, 2)


async def test_what_proxies_say_about_another_processs_model_goes_to_the_topic(group):
    group.on_refused("fraud", 1, 2, "no such cluster")
    event = await asyncio.wait_for(group._producer.events.get(), 10)
    assert event.source == PROXIES_SOURCE
    assert event.message == RouteApplied(model="fraud", epoch=1, revision=2, refusal="no such cluster")
    assert group_module._core_event(event).message == "no such cluster"


async def test_a_group_that_we_may_not_join_ends_the_process_and_says_so(group, monkeypatch):
    async def getmany(**_):
        raise GroupAuthorizationFailedError(group._group)

    monkeypatch.setattr(group._consumer, "getmany", getmany)
    assert not group._taken.is_set()
    with pytest.raises(Refused):
        await asyncio.wait_for(group.run(), 10)


COMMAND = Event(
    message=RolloutCommand(verb=RolloutCommand.VERB_PAUSE, model="fraud", rollout_id="fraud-1"),
    id="command-1",
    source="test",
    time=utc_now(),
    subject="fraud",
    correlation_id="command-1",
)
PLACE = TopicPartition("test.commands", 0)


class Delivered:
    """A record as the client hands it out."""

    def __init__(self, event, offset):
        record = encode(event, content_type=PROTOBUF)
        self.topic, self.partition, self.offset = PLACE.topic, PLACE.partition, offset
        self.key, self.value, self.headers = record.key, record.value, list(record.headers)


async def test_what_was_fetched_before_a_rebalance_does_not_reach_the_next_worker(group):
    class Taken(Owner):
        async def put(self, item):
            self.items.append(item.offset)
            # While it takes the first one, the partition goes away and comes back.
            await group.on_partitions_revoked([PLACE])

        async def stop(self):
            group._workers[0] = self

    worker = Taken()
    group._workers[0] = worker
    group._handling[PLACE.topic] = group_module.Handling(PLACE.topic)
    await group._deliver({PLACE: [Delivered(COMMAND, 1), Delivered(COMMAND, 2)]})
    assert worker.items == [1]


def test_a_verb_of_another_release_is_no_event_for_this_one():
    unknown = RolloutCommand(model="fraud", rollout_id="fraud-1")
    unknown.MergeFromString(b"\x10\x63")
    assert unknown.verb == 99
    with pytest.raises(InvalidEvent, match="does not know") as raised:
        group_module._core_event(replace(COMMAND, message=unknown))
    assert raised.value.code == "EVENT_NOT_UNDERSTOOD"


async def test_who_waits_for_a_worker_that_stops_goes_on(tmp_path):
    worker = PartitionWorker(
        partition=0,
        kafka=NOBODY_LISTENS,
        group="g",
        in_hand=InHand(tmp_path, "g"),
        apply_route=lambda _table, _time: None,
        wake_host=lambda: None,
    )
    for _ in range(QUEUE_MAX):
        worker.put_now(Item(model="fraud", event=None))
    waiting = asyncio.create_task(worker.put(Item(model="fraud", event=None)))
    await asyncio.sleep(0)
    assert not waiting.done()
    await worker.stop()
    await asyncio.wait_for(waiting, 10)
