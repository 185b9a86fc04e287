"""A route's way to the proxies is timed for decisions of this process alone, once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tidegate.core.clock import utc_now
from tidegate.deployer.xds import fleet as fleet_module
from tidegate.deployer.xds.fleet import ProxyFleet
from tidegate.deployer.xds.ordering import ProxyState
from tidegate.v1.rollout_events_pb2 import RouteApplied, RouteTable

LONG_AGO = timedelta(hours=1)
TABLE = RouteTable(model="churn", epoch=1, revision=1)


class Session:
    """A proxy that has everything at once."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.state = ProxyState()

    def wake(self) -> None:
        """Do nothing: nothing is missing."""

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
async def reports() -> list[RouteApplied]:
    return []


@pytest.fixture
async def fleet(reports, monkeypatch):
    monkeypatch.setattr(fleet_module, "is_settled", lambda _state, _resources: True)
    made = ProxyFleet("127.0.0.1", 1, on_applied=reports.append)
    yield made
    made.close()


def connect(fleet: ProxyFleet, node_id: str) -> None:
    session = Session(node_id)
    fleet.on_connected(session)
    fleet.on_progress(session)


async def turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_decision_of_our_own_is_timed(fleet, reports):
    connect(fleet, "one")
    fleet.apply(TABLE, decided_time=utc_now() - timedelta(seconds=2))
    await turn()
    (report,) = reports
    assert report.complete
    assert report.latency_ms >= 2000


async def test_what_was_read_is_not(fleet, reports):
    fleet.apply(TABLE, decided_time=None)
    connect(fleet, "one")
    await turn()
    (report,) = reports
    assert (report.complete, report.latency_ms) == (True, 0)


async def test_what_is_read_before_its_commit_is_heard_of_is_timed(fleet, reports):
    fleet.apply(TABLE, decided_time=None)
    fleet.apply(TABLE, decided_time=utc_now() - timedelta(seconds=2))
    connect(fleet, "one")
    await turn()
    assert [report.latency_ms >= 2000 for report in reports] == [True]


async def test_a_proxy_that_comes_later_is_not_timed(fleet, reports):
    connect(fleet, "one")
    fleet.apply(TABLE, decided_time=utc_now() - LONG_AGO)
    await turn()
    connect(fleet, "two")
    fleet.apply(TABLE, decided_time=utc_now() - LONG_AGO)
    await turn()
    assert [([*report.applied], report.complete) for report in reports] == [(["one"], True), (["one", "two"], True)]
    assert reports[0].latency_ms > 0
    assert reports[1].latency_ms == 0
