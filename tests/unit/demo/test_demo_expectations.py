"""The demo must not call a bad story a good one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message

from tidegate.contracts.codec import Event
from tidegate.contracts.names import parse_version
from tidegate.stack.demo.expectations import (
    expect_all_traffic,
    expect_no_failure,
    expect_number,
    expect_rising_share,
    expect_rollback,
)
from tidegate.stack.demo.traffic import Report
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.monitoring_events_pb2 import MetricBreach
from tidegate.v1.rollout_events_pb2 import Arm, Phase, RolloutStep, RouteApplied
from tidegate.v1.values_pb2 import Change

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def story(*messages: Message) -> list[Event]:
    return [
        Event(
            message=message,
            id=str(second),
            source="tidegate/test",
            time=BEGIN + timedelta(seconds=second),
            subject="m",
            correlation_id="c",
        )
        for second, message in enumerate(messages)
    ]


def step(phase: int, share: float, revision: int = 1) -> RolloutStep:
    version = parse_version("1.1.1")
    arms = [Arm(version=version, weight_millionths=round(share * 1_000_000))]
    return RolloutStep(model="m", candidate=version, phase=phase, arms=arms, route_epoch=1, route_revision=revision)


def breach() -> MetricBreach:
    message = MetricBreach(model="m", version=parse_version("1.1.1"), guard="error_rate")
    message.first_evidence_time.FromDatetime(BEGIN)
    return message


def report(failed: int, **by_version: int) -> Report:
    return Report(
        requests=sum(by_version.values()) + failed,
        failed=failed,
        by_version=by_version,
        latency_ms_p50=1.0,
        latency_ms_p99=2.0,
    )


def test_rising_share_holds() -> None:
    steps = (step(Phase.PHASE_STEPPING, 0.1), step(Phase.PHASE_STEPPING, 0.5), step(Phase.PHASE_SETTLING, 1.0))
    found = expect_rising_share(story(*steps), "1.1.1")
    assert found.holds
    assert found.observed == "10 %, 50 %, 100 %"


def test_share_that_falls_does_not_hold() -> None:
    steps = (step(Phase.PHASE_STEPPING, 0.5), step(Phase.PHASE_STEPPING, 0.1), step(Phase.PHASE_SETTLING, 1.0))
    assert not expect_rising_share(story(*steps), "1.1.1").holds


def test_share_that_jumps_to_the_end_does_not_hold() -> None:
    assert not expect_rising_share(story(step(Phase.PHASE_SETTLING, 1.0)), "1.1.1").holds


def test_rollback_needs_an_acknowledgement_of_its_own_route() -> None:
    back = step(Phase.PHASE_ROLLING_BACK, 0.0, revision=8)
    other = RouteApplied(model="m", epoch=1, revision=7, complete=True)
    missing = RouteApplied(model="m", epoch=1, revision=8, complete=False)
    done = RouteApplied(model="m", epoch=1, revision=8, complete=True)
    assert [each.holds for each in expect_rollback(story(breach(), back, other, missing), "1.1.1")] == [True, False]
    held = expect_rollback(story(breach(), back, done), "1.1.1")
    assert [each.holds for each in held] == [True, True]
    assert held[1].observed == "2000 ms after it"


def test_rollback_without_a_breach_does_not_hold() -> None:
    assert [each.holds for each in expect_rollback(story(step(Phase.PHASE_ROLLING_BACK, 0.0)), "1.1.1")] == [False]


def test_number_for_another_reason_does_not_hold() -> None:
    registered = ModelRegistered(version=parse_version("1.1.0"), change=Change.CHANGE_PIPELINE)
    assert not expect_number(registered, "1.1.0", Change.CHANGE_MINOR).holds


def test_one_failed_request_is_too_many() -> None:
    assert expect_no_failure(report(0, stable=100)).holds
    assert not expect_no_failure(report(1, stable=100)).holds
    assert not expect_no_failure(report(0)).holds


def test_a_single_answer_of_the_breached_version_is_too_many() -> None:
    assert expect_all_traffic({"1.1.0": 500}, "1.1.0").holds
    assert not expect_all_traffic({"1.1.0": 500, "1.1.1": 1}, "1.1.0").holds
    assert not expect_all_traffic({}, "1.1.0").holds
