"""What a partition's worker lets others see."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import MessageSizeTooLargeError, ProducerFenced

from tidegate.core.errors import InvalidInput
from tidegate.core.in_hand import ENDS_MAX, InHand, Place
from tidegate.core.policy import default_policy
from tidegate.core.settings import KafkaSettings
from tidegate.deployer import agents
from tidegate.deployer import events as core
from tidegate.deployer.agents import Item, PartitionWorker, batches_of
from tidegate.deployer.state import Blessed, KnownVersion, Number
from tidegate.deployer.wire import policy_from

NUMBER = Number(1, 0, 0)


def item(event):
    return Item(model="fraud", event=event)


def delivered():
    """Return what makes the worker want a server."""
    version = KnownVersion(number=NUMBER, uri="s3://a/b", digest="sha256:00", size_bytes=7, format="onnx")
    blessed = Blessed(
        number=NUMBER,
        policy=policy_from(default_policy("fraud"), 1),
        cause_id="c",
        rollout_id="fraud-1.0.0-b",
        correlation_id="k",
    )
    return [
        item(core.VersionRegistered(time_s=1.0, cause="registered", version=version)),
        item(core.VersionBlessed(time_s=2.0, cause="blessed", blessed=blessed)),
    ]


class HeldWorker(PartitionWorker):
    """Its transactions end when the test says so."""

    def __init__(self, **given):
        super().__init__(**given)
        self.began = asyncio.Event()
        self.outcome = asyncio.get_running_loop().create_future()

    async def _commit(self, outcome):
        self.began.set()
        await self.outcome


@pytest.fixture
async def worker(tmp_path):
    return HeldWorker(
        partition=0,
        kafka=KafkaSettings(bootstrap="127.0.0.1:1"),
        group="tests",
        in_hand=InHand(tmp_path, "tests"),
        apply_route=lambda _table, _decided: None,
        wake_host=lambda: None,
    )


async def test_no_server_is_wanted_before_the_decision_is_committed(worker):
    handled = asyncio.create_task(worker._handle(delivered()))
    await worker.began.wait()
    assert worker.wanted() == []
    worker.outcome.set_result(None)
    await handled
    assert [one.version.number for one in worker.wanted()] == [NUMBER]


async def test_no_server_is_wanted_by_a_decision_that_was_not_committed(worker):
    worker.outcome.set_exception(RuntimeError("fenced"))
    with pytest.raises(RuntimeError, match="fenced"):
        await worker._handle(delivered())
    assert worker.wanted() == []


def sent(offset):
    """Return a decision's cause that Kafka brought."""
    registered = delivered()[0]
    return replace(registered, source=TopicPartition("tidegate.registry", 0), offset=offset)


def place(offset):
    return Place(topic="tidegate.registry", partition=0, offset=offset)


async def test_what_the_decision_fails_on_is_condemned_and_nothing_else_of_its_batch(worker, tmp_path, monkeypatch):
    def fails_at(state, event):
        raise ZeroDivisionError("nobody thought of it")

    worker.outcome.set_result(None)
    monkeypatch.setattr(agents, "decide", fails_at)
    for _ in range(ENDS_MAX):
        worker._in_hand = InHand(tmp_path, "tests")
        with pytest.raises(ZeroDivisionError):
            await worker._handle([sent(7), sent(8)])
    after = InHand(tmp_path, "tests")
    after.check(place(8))
    with pytest.raises(InvalidInput, match="nobody thought of it"):
        after.check(place(7))


@pytest.mark.parametrize(
    ("error", "suspects"),
    [(ValueError("no such enum"), 2), (MessageSizeTooLargeError("large"), 2), (ProducerFenced(), 0)],
)
async def test_a_commit_that_fails_by_what_it_holds_makes_suspects_that_are_taken_one_by_one(
    worker, tmp_path, error, suspects
):
    items = [sent(7), sent(8)]
    worker.outcome.set_exception(error)
    with pytest.raises(type(error)):
        await worker._handle(items)
    after = InHand(tmp_path, "tests")
    assert sum(after.is_suspect(place(offset)) for offset in (7, 8)) == suspects
    after.check(place(7))
    worker._in_hand = after
    batches = list(batches_of([*items, sent(9), sent(10)], worker._is_suspect))
    assert [len(batch) for batch in batches] == ([1, 1, 2] if suspects else [4])


async def test_a_suspect_is_forgiven_once_its_decision_is_committed(worker, tmp_path):
    worker._in_hand.failed(place(7), ValueError("in a batch"))
    worker._in_hand = InHand(tmp_path, "tests")
    worker.outcome.set_result(None)
    await worker._handle([sent(7)])
    assert not InHand(tmp_path, "tests").is_suspect(place(7))
