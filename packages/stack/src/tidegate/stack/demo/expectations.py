"""What has to come out of the story. Pure: events and counts in, verdicts out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tidegate.client.why import phase_name
from tidegate.contracts.codec import Event
from tidegate.contracts.names import format_version
from tidegate.stack.demo.traffic import Report
from tidegate.v1.events_pb2 import ModelBlessed, ModelRegistered, ValidationPassed
from tidegate.v1.monitoring_events_pb2 import MetricBreach
from tidegate.v1.rollout_events_pb2 import RolloutStep, RouteApplied
from tidegate.v1.values_pb2 import Change


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """What had to come out, and what did."""

    name: str
    holds: bool
    observed: str


def expect_number(registered: ModelRegistered, number: str, change: int) -> Expectation:
    """Return whether the registry gave ``number`` for the right reason."""
    found = format_version(registered.version)
    kind = Change.Name(registered.change).removeprefix("CHANGE_")
    return Expectation(
        name=f"its number is {number}",
        holds=found == number and registered.change == change,
        observed=f"{found} ({kind}): {registered.reason}",
    )


def expect_end(version: str, wanted: str, found: str) -> Expectation:
    """Return whether the rollout of ``version`` ended in the phase ``wanted``."""
    return Expectation(name=f"the rollout of {version} ends {wanted}", holds=found == wanted, observed=found)


def expect_rising_share(events: Sequence[Event], version: str) -> Expectation:
    """Return whether the share of ``version`` rose step by step to all of the traffic, and never fell."""
    shares = [
        arm.weight_millionths / 10_000
        for step in steps_of(events, version, "STEPPING", "SETTLING", "PROMOTED")
        for arm in step.arms
        if format_version(arm.version) == version
    ]
    different = list(dict.fromkeys(shares))
    return Expectation(
        name=f"the share of {version} rises step by step, and never falls",
        holds=len(different) > 1 and shares == sorted(shares) and shares[-1] == 100.0,
        observed=", ".join(f"{share:g} %" for share in different) or "no steps",
    )


def expect_blessed(events: Sequence[Event], version: str) -> Expectation:
    """Return whether ``version`` passed every check before delivery."""
    passed = [event.message for event in events if _is_about(event, ValidationPassed, version)]
    blessed = any(_is_about(event, ModelBlessed, version) for event in events)
    count = len(passed[0].checks) if passed and isinstance(passed[0], ValidationPassed) else 0
    return Expectation(
        name=f"{version} passes every check before delivery",
        holds=blessed,
        observed=f"{count} checks, {'blessed' if blessed else 'not blessed'}",
    )


def expect_rollback(events: Sequence[Event], version: str) -> list[Expectation]:
    """Return whether a guard breached, and the proxy acknowledged that stable has all traffic again."""
    breach = next((event for event in events if _is_about(event, MetricBreach, version)), None)
    if breach is None or not isinstance(breach.message, MetricBreach):
        return [Expectation(name=f"a guard of {version} breaches", holds=False, observed="no breach")]
    message = breach.message
    bad_s = (breach.time - message.first_evidence_time.ToDatetime(tzinfo=UTC)).total_seconds()
    applied = _rollback_time(events, version, after=breach.time)
    acknowledged = "never" if applied is None else f"{(applied - breach.time).total_seconds() * 1000:.0f} ms after it"
    return [
        Expectation(
            name=f"a guard of {version} breaches",
            holds=True,
            observed=f"{message.guard}, {bad_s:.2f} s after the first bad answer, on "
            f"{message.evidence.candidate_count} requests of the candidate",
        ),
        Expectation(name="the proxy acknowledges the rollback", holds=applied is not None, observed=acknowledged),
    ]


def expect_all_traffic(by_version: dict[str, int], version: str) -> Expectation:
    """Return whether nobody but ``version`` answered."""
    return Expectation(
        name=f"after the rollback {version} has all traffic",
        holds=set(by_version) == {version},
        observed=", ".join(f"{name} {count}" for name, count in by_version.items()) or "no answers",
    )


def expect_no_failure(report: Report) -> Expectation:
    """Return whether no client saw a request fail."""
    examples = "".join(f"; {failure.status} {failure.text}" for failure in report.failures[:3])
    return Expectation(
        name="no live request fails, from the first answer on",
        holds=report.failed == 0 and report.requests > 0,
        observed=f"{report.failed} of {report.requests} failed{examples}",
    )


def in_phase(version: str, *phases: str) -> Callable[[Event], bool]:
    """Return what says whether an event is a step of the rollout of ``version`` in one of ``phases``."""

    def wanted(event: Event) -> bool:
        message = event.message
        return (
            isinstance(message, RolloutStep)
            and format_version(message.candidate) == version
            and phase_name(message.phase) in phases
        )

    return wanted


def steps_of(events: Sequence[Event], version: str, *phases: str) -> list[RolloutStep]:
    """Return the steps of the rollout of ``version`` in ``phases``, in order."""
    wanted = in_phase(version, *phases)
    return [event.message for event in events if isinstance(event.message, RolloutStep) and wanted(event)]


def _rollback_time(events: Sequence[Event], version: str, *, after: datetime) -> datetime | None:
    steps = steps_of(events, version, "ROLLING_BACK", "ROLLED_BACK")
    routes = {(step.route_epoch, step.route_revision) for step in steps}
    for event in events:
        message = event.message
        if not isinstance(message, RouteApplied) or not message.complete or event.time < after:
            continue
        if (message.epoch, message.revision) in routes:
            return event.time
    return None


def _is_about(event: Event, kind: type[Any], version: str) -> bool:
    message: Any = event.message
    return isinstance(message, kind) and format_version(message.version) == version
