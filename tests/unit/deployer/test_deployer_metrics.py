"""What the deployer shows of its rollouts and routes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from tidegate.deployer.metrics import AckTimes, StateGauges
from tidegate.deployer.state import Arm, Line, ModelState, Number, Role, Route
from tidegate.v1.rollout_events_pb2 import RouteApplied

STABLE, CANDIDATE = Number(1, 0, 0), Number(1, 1, 0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def state_with_route(*, acknowledged: bool) -> ModelState:
    arms = (
        Arm(number=STABLE, role=Role.STABLE, weight_millionths=750_000),
        Arm(number=CANDIDATE, role=Role.CANDIDATE, weight_millionths=250_000),
    )
    lines = (Line(major=1, arms=arms), Line(major=2, arms=(replace(arms[0], weight_millionths=1_000_000),)))
    return ModelState(model="shown", route=Route(epoch=1, revision=7, lines=lines, acknowledged=acknowledged))


def test_weights_and_revisions_follow_the_route_and_go_with_the_partition():
    gauges = StateGauges()
    gauges.show({"shown": state_with_route(acknowledged=False)})
    assert value("tidegate_deployer_weight_ratio", model="shown", role="STABLE") == 0.75
    assert value("tidegate_deployer_weight_ratio", model="shown", role="CANDIDATE") == 0.25
    assert value("tidegate_deployer_route_revision", model="shown") == 7
    assert value("tidegate_deployer_route_acknowledged_revision", model="shown") is None
    assert value("tidegate_deployer_routes_pending") == 1
    gauges.show({"shown": state_with_route(acknowledged=True)})
    assert value("tidegate_deployer_route_acknowledged_revision", model="shown") == 7
    assert value("tidegate_deployer_routes_pending") == 0
    gauges.forget(["shown", "never-seen"])
    assert value("tidegate_deployer_weight_ratio", model="shown", role="STABLE") is None
    assert value("tidegate_deployer_route_revision", model="shown") is None


def report(*, revision: int, complete: bool = True) -> RouteApplied:
    return RouteApplied(model="acked", epoch=1, revision=revision, complete=complete, latency_ms=40)


@pytest.mark.parametrize(
    ("revision", "complete", "measured"), [(4, True, 0), (5, False, 0), (5, True, 1), (6, True, 1)]
)
def test_breach_is_measured_until_its_route_or_a_later_one_is_everywhere(revision, complete, measured):
    def counted(part: str) -> float:
        return value(f"tidegate_deployer_route_ack_seconds_{part}", cause="breach") or 0.0

    count, total = counted("count"), counted("sum")
    times = AckTimes()
    times.decided("acked", 1, 5, NOW)
    times.applied(report(revision=revision, complete=complete), NOW + timedelta(seconds=0.25))
    assert counted("count") == count + measured
    assert counted("sum") == pytest.approx(total + 0.25 * measured)
    # Once is enough.
    times.applied(report(revision=7), NOW + timedelta(seconds=9))
    assert counted("count") == count + 1


def test_shift_is_measured_from_its_decision():
    before = value("tidegate_deployer_route_ack_seconds_sum", cause="shift") or 0.0
    AckTimes().applied(report(revision=1), NOW)
    assert value("tidegate_deployer_route_ack_seconds_sum", cause="shift") == pytest.approx(before + 0.04)


def test_what_nobody_has_measured_is_no_short_time():
    def counted() -> float:
        return value("tidegate_deployer_route_ack_seconds_count", cause="shift") or 0.0

    before = counted()
    unmeasured = report(revision=1)
    unmeasured.latency_ms = 0
    AckTimes().applied(unmeasured, NOW)
    assert counted() == before
    AckTimes().applied(report(revision=1), NOW)
    assert counted() == before + 1
