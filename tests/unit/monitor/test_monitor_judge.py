"""decide(state, batch): what breaches, what is enough, and what is unknown."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tidegate.monitor.judges.judge import decide
from tidegate.monitor.judges.replay import replay
from tidegate.monitor.judges.values import ArmBatch, Batch, Finding, Guard, Kind, Rules, State, empty_arm, start

ERRORS = Guard(metric="error_rate", margin=0.02, floor=0.05)
LATENCY = Guard(metric="latency_ms", quantile=0.99, ratio=1.2, ceiling=500.0)
RULES = Rules(guards=(ERRORS, LATENCY), alpha=0.01)
SLICE_US = 250_000


def arm(
    requests: int, failures: int = 0, *, broken: int | None = None, latency_ms: float = 10.0, at_us: int = 0
) -> ArmBatch:
    """Return an arm whose successes all took ``latency_ms``."""
    return ArmBatch(
        requests=requests,
        failures=failures,
        broken=failures if broken is None else broken,
        latencies_us=np.full(requests - failures, int(latency_ms * 1000), dtype=np.uint64),
        first_failure_us=at_us if failures else 0,
    )


def batch(number: int, candidate: ArmBatch, stable: ArmBatch | None, *, route: tuple[int, int] = (1, 1)) -> Batch:
    """Return the ``number``-th slice; without ``stable`` there is no concurrent stable traffic."""
    return Batch(
        route=route,
        start_us=number * SLICE_US,
        end_us=(number + 1) * SLICE_US,
        partition=0,
        offset=number,
        concurrent=stable is not None,
        candidate=candidate,
        stable=stable or empty_arm(),
    )


def feed(state: State, batches: list[Batch]) -> tuple[State, list[Finding], list[Finding]]:
    """Return the state after ``batches``, the breaches and the evidence reached."""
    breaches: list[Finding] = []
    reached: list[Finding] = []
    for one in batches:
        decision = decide(state, one)
        state = decision.state
        breaches += decision.breaches
        reached += [decision.reached] if decision.reached else []
    return state, breaches, reached


def test_failing_candidate_breaches_error_rate_once() -> None:
    batches = [batch(n, arm(25, 5, at_us=n * SLICE_US + 7), arm(75)) for n in range(40)]
    _, breaches, reached = feed(start(RULES), batches)
    (breach,) = breaches
    assert (breach.evidence.guard, breach.evidence.kind) == ("error_rate", Kind.CONCURRENT)
    assert breach.evidence.e_value >= breach.evidence.threshold == 400
    assert breach.first_evidence_us == 7
    assert breach.evidence.candidate_estimate == pytest.approx(0.2)
    assert reached == []


def test_failing_stable_never_breaches() -> None:
    _, breaches, _ = feed(start(RULES), [batch(n, arm(25), arm(75, 30)) for n in range(40)])
    assert breaches == []


def test_healthy_candidate_reaches_evidence_once_a_step() -> None:
    first = [batch(n, arm(25), arm(75)) for n in range(20)]
    second = [batch(n, arm(25), arm(75), route=(1, 2)) for n in range(20, 40)]
    _, breaches, reached = feed(start(RULES), first + second)
    assert breaches == []
    assert [one.route for one in reached] == [(1, 1), (1, 2)]
    assert all(one.evidence.e_value >= one.evidence.threshold == 100 for one in reached)
    assert reached[1].first_evidence_us == 20 * SLICE_US


def test_evidence_of_one_step_does_not_count_for_the_next() -> None:
    needed = math.ceil(math.log(100) / 0.02 / 25) + 1
    state, _, reached = feed(start(RULES), [batch(n, arm(25), arm(75)) for n in range(2 * needed)])
    assert len(reached) == 1
    state, _, reached = feed(state, [batch(100 + n, arm(25), arm(75), route=(1, 2)) for n in range(needed // 2)])
    assert reached == []


def test_step_wants_its_least_requests_even_without_a_margin() -> None:
    rules = Rules(guards=(replace(ERRORS, margin=0.0),), step_requests_min=60)
    _, _, reached = feed(start(rules), [batch(n, arm(25), arm(75)) for n in range(4)])
    (finding,) = reached
    assert finding.evidence.candidate_count == 75
    assert replay(finding.inputs_json) == finding.evidence.e_value


def test_no_traffic_is_unknown() -> None:
    decision = decide(start(RULES), batch(0, empty_arm(), empty_arm()))
    assert (decision.breaches, decision.reached) == ((), None)
    assert decision.reason.startswith("unknown")
    later, breaches, reached = feed(decision.state, [batch(n, empty_arm(), arm(100)) for n in range(1, 200)])
    assert (breaches, reached) == ([], [])
    assert later.step.candidate_requests == 0


def test_slow_candidate_breaches_latency() -> None:
    healthy = [batch(n, arm(20), arm(80)) for n in range(20)]
    slow = [batch(n, arm(20, latency_ms=200.0), arm(80)) for n in range(20, 60)]
    _, breaches, _ = feed(start(RULES), healthy + slow)
    (breach,) = breaches
    assert breach.evidence.guard == "latency_ms"
    assert breach.evidence.candidate_estimate > 100 > breach.evidence.stable_estimate


def test_stall_of_one_second_does_not_breach_latency() -> None:
    slices = [batch(n, arm(50, latency_ms=300.0 if 20 <= n < 24 else 10.0), arm(50)) for n in range(80)]
    _, breaches, _ = feed(start(RULES), slices)
    assert breaches == []


def test_twenty_milliseconds_more_are_noise() -> None:
    _, breaches, _ = feed(
        start(RULES), [batch(n, arm(50, latency_ms=25.0), arm(50, latency_ms=5.0)) for n in range(200)]
    )
    assert breaches == []


def test_without_stable_traffic_the_floor_guards() -> None:
    _, breaches, reached = feed(start(RULES), [batch(n, arm(40, 12), None) for n in range(10)])
    (breach,) = breaches
    assert (breach.evidence.guard, breach.evidence.kind) == ("error_rate", Kind.ABSOLUTE)
    assert reached == []


def test_without_stable_traffic_refused_requests_are_no_errors() -> None:
    _, breaches, _ = feed(start(RULES), [batch(n, arm(40, 12, broken=0), None) for n in range(50)])
    assert breaches == []


def test_without_stable_traffic_the_ceiling_guards() -> None:
    _, breaches, _ = feed(start(RULES), [batch(n, arm(40, latency_ms=900.0), None) for n in range(40)])
    (breach,) = breaches
    assert (breach.evidence.guard, breach.evidence.kind) == ("latency_ms", Kind.ABSOLUTE)


def test_batch_is_counted_once() -> None:
    first = decide(start(RULES), batch(5, arm(25, 5), arm(75)))
    again = decide(first.state, batch(5, arm(25, 5), arm(75)))
    assert again.state is first.state
    assert again.reason == "already counted"


def test_nothing_is_reached_after_a_breach() -> None:
    failing = [batch(n, arm(25, 10), arm(75)) for n in range(20)]
    healthy = [batch(n, arm(100), arm(100), route=(1, 2)) for n in range(20, 120)]
    _, breaches, reached = feed(start(RULES), failing + healthy)
    assert len(breaches) == 1
    assert reached == []


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([batch(n, arm(25, n % 4), arm(75)) for n in range(60)], id="errors"),
        pytest.param([batch(n, arm(25, latency_ms=10.0 + 5 * n), arm(75)) for n in range(60)], id="latency"),
        pytest.param([batch(n, arm(25, 2 + n % 4), None) for n in range(60)], id="floor"),
        pytest.param([batch(n, arm(25, latency_ms=20.0 * n), None) for n in range(80)], id="ceiling"),
        pytest.param([batch(n, arm(25), arm(75, n % 2)) for n in range(60)], id="promotion"),
    ],
)
def test_recorded_inputs_give_the_same_e_value_bit_for_bit(batches: list[Batch]) -> None:
    _, breaches, reached = feed(start(RULES), batches)
    findings = breaches + reached
    assert findings
    for finding in findings:
        assert replay(finding.inputs_json) == finding.evidence.e_value
        assert json.dumps(json.loads(finding.inputs_json), sort_keys=True, separators=(",", ":")) == finding.inputs_json


def test_alpha_is_split_over_guards_and_kinds() -> None:
    assert RULES.threshold(ERRORS) == pytest.approx(400)
    assert Rules(guards=(replace(ERRORS, floor=0.0),)).threshold(replace(ERRORS, floor=0.0)) == pytest.approx(100)
    total = sum(len(guard.kinds()) / RULES.threshold(guard) for guard in RULES.guards)
    assert total == pytest.approx(RULES.alpha)


def test_replay_refuses_an_unknown_judge() -> None:
    with pytest.raises(ValueError, match="judge is 'oracle'"):
        replay(json.dumps({"judge": "oracle", "state": {}, "blocks": [], "bounds": {}}))
