"""What a partition's worker lets others see."""

from __future__ import annotations

import asyncio

import pytest

from tidegate.core.policy import default_policy
from tidegate.core.settings import KafkaSettings
from tidegate.deployer import events as core
from tidegate.deployer.agents import Item, PartitionWorker
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
async def worker():
    return HeldWorker(
        partition=0,
        kafka=KafkaSettings(bootstrap="127.0.0.1:1"),
        group="tests",
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
