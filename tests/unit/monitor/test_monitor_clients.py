"""A jump of client errors when all traffic goes to another version: what is one, and what is not."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contracts.codec import Event
from tidegate.core.clock import utc_now
from tidegate.core.policy import default_policy
from tidegate.monitor.judges.clients import (
    PAST_MAX,
    SUSPECTS_MAX,
    Clients,
    bound_of,
    count,
    remember,
    upper_limit,
    watch,
)
from tidegate.monitor.judges.judge import decide
from tidegate.monitor.judges.replay import replay
from tidegate.monitor.judges.state_json import read_state, write_state
from tidegate.monitor.judges.values import ArmBatch, Batch, Finding, Guard, Kind, Rules, State, empty_arm, start
from tidegate.monitor.past import Past
from tidegate.monitor.rollouts import ModelState, RouteFacts, StepFacts
from tidegate.monitor.wire import rules_of, to_batch
from tidegate.v1.monitoring_events_pb2 import PredictionBatch, PredictionColumns
from tidegate.v1.policy_pb2 import GuardPolicy

GUARD = Guard(metric="client_errors", margin=0.05)
RULES = Rules(guards=(Guard(metric="error_rate", margin=0.005, floor=0.05), GUARD), alpha=0.01)
SLICE_US = 250_000
SLICES_PER_S = 4


def arm(units: list[int], errors: list[bool]) -> ArmBatch:
    return ArmBatch(
        requests=len(units),
        failures=sum(errors),
        broken=0,
        latencies_us=np.full(len(errors) - sum(errors), 5000, dtype=np.uint64),
        units=np.array(units, dtype=np.uint64),
        client_errors=np.array(errors, dtype=np.bool_),
    )


def batch(number: int, one: ArmBatch, *, before: bool = False) -> Batch:
    """Return the ``number``-th slice: stable's of before the switch, or the candidate's, which is alone since."""
    return Batch(
        route=(1, 1) if before else (1, 2),
        start_us=number * SLICE_US,
        end_us=(number + 1) * SLICE_US,
        partition=0,
        offset=number,
        concurrent=before,
        candidate=empty_arm() if before else one,
        stable=one if before else empty_arm(),
    )


def callers(count: int, failing: int = 0) -> ArmBatch:
    """Return requests that name no unit, the first of which fail."""
    return arm([0] * count, [place < failing for place in range(count)])


def switched(before: list[ArmBatch], after: list[ArmBatch]) -> tuple[State, list[Finding]]:
    """Return what follows from slices before and after the switch."""
    state, breaches = start(RULES), []
    slices = [batch(number, one, before=number < len(before)) for number, one in enumerate([*before, *after])]
    for one in slices:
        decision = decide(state, one)
        state = decision.state
        breaches += decision.breaches
    return state, breaches


def test_a_version_that_refuses_every_caller_breaches_within_seconds() -> None:
    _, (breach,) = switched([callers(25)] * 8, [callers(25, 25)] * 10 * SLICES_PER_S)
    assert (breach.evidence.guard, breach.evidence.kind) == ("client_errors", Kind.ABSOLUTE)
    assert breach.evidence.e_value >= breach.evidence.threshold == pytest.approx(400)
    assert (breach.evidence.candidate_estimate, breach.evidence.stable_estimate) == (1.0, 0.0)
    assert breach.first_evidence_us == 8 * SLICE_US
    assert replay(breach.inputs_json) == breach.evidence.e_value


def test_half_of_the_callers_are_enough() -> None:
    _, breaches = switched([callers(20, 2)] * 40, [callers(20, 12)] * 60 * SLICES_PER_S)
    assert [one.evidence.guard for one in breaches] == ["client_errors"]


def test_callers_who_always_send_rubbish_are_no_jump() -> None:
    noisy = [callers(10, 4)] * 40
    assert switched(noisy, [callers(10, 4)] * 600 * SLICES_PER_S)[1] == []


def test_nothing_is_judged_without_a_past() -> None:
    state, breaches = switched([], [callers(25, 25)] * 60 * SLICES_PER_S)
    assert breaches == []
    assert state.guards[1].tallies[1].candidate_failures == 25 * 60 * SLICES_PER_S


def test_three_answers_are_too_short_a_past() -> None:
    assert switched([callers(3)], [callers(25, 25)] * 60 * SLICES_PER_S)[1] == []


def with_heavy_user(*, failing: bool, others: int = 3) -> ArmBatch:
    """Return a slice in which one unit sends most requests; another few send one each."""
    return arm([7] * 20 + [100 + place for place in range(others)], [failing] * 20 + [False] * others)


def test_one_user_who_begins_to_send_rubbish_at_the_switch_is_not_enough() -> None:
    assert (
        switched([with_heavy_user(failing=False)] * 40, [with_heavy_user(failing=True)] * 120 * SLICES_PER_S)[1] == []
    )


def test_a_user_who_is_all_there_is_counts() -> None:
    assert switched([arm([7] * 5, [False] * 5)] * 40, [arm([7] * 5, [True] * 5)] * 60 * SLICES_PER_S)[1]


def test_two_of_four_users_are_enough() -> None:
    users = [1, 2, 3, 4]
    good, bad = arm(users, [False] * 4), arm(users, [True, True, False, False])
    assert switched([good] * 40, [bad] * 60 * SLICES_PER_S)[1]


def test_a_burst_of_two_seconds_is_forgiven() -> None:
    after = [callers(25)] * 40 + [callers(25, 25)] * 2 * SLICES_PER_S + [callers(25)] * 240
    assert switched([callers(25)] * 40, after)[1] == []


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3])
def test_the_same_share_as_before_breaches_as_seldom_as_promised(share: float) -> None:
    generator = np.random.default_rng(20261130)
    runs = 15
    for _ in range(runs):
        before = [callers(10, int(generator.binomial(10, share))) for _ in range(20)]
        # The margin belongs to the null too.
        after = [callers(10, int(generator.binomial(10, share + GUARD.margin))) for _ in range(160)]
        assert switched(before, after)[1] == []


def test_state_comes_back_from_json_bit_for_bit() -> None:
    state, _ = switched([with_heavy_user(failing=False)] * 5, [with_heavy_user(failing=True)] * 7)
    assert read_state(json.loads(json.dumps(write_state(state)))) == state


def test_state_of_a_release_without_this_guard_is_read() -> None:
    state = start(Rules(guards=RULES.guards[:1]))
    value = json.loads(json.dumps(write_state(state)))
    del value["guards"][0]["clients"]
    assert read_state(value) == state


def test_a_step_without_guards_keeps_the_rules_of_its_release() -> None:
    rules = rules_of(GuardPolicy(), "m", step_requests_min=50)
    assert [guard.metric for guard in rules.guards] == ["error_rate", "latency_ms"]
    assert [rules.threshold(guard) for guard in rules.guards] == pytest.approx([400, 400])
    newest = rules_of(default_policy("m").guards, "m", step_requests_min=50)
    assert [guard.metric for guard in newest.guards] == ["error_rate", "latency_ms", "client_errors"]


ROWS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30)


@given(ROWS, st.integers(0, 5))
def test_each_unit_counts_once_by_its_first_answer(rows, without) -> None:
    units = np.array([unit for unit, _ in rows], dtype=np.uint64)
    errors = np.array([error for _, error in rows], dtype=np.bool_)
    first: dict[int, bool] = {}
    lone = [error for unit, error in rows if unit == 0]
    for unit, error in rows:
        if unit not in {0, without}:
            first.setdefault(unit, error)
    assert count(units, errors, without=without) == (len(lone) + len(first), sum(lone) + sum(first.values()))


@given(st.lists(ROWS, max_size=12))
def test_what_is_remembered_of_units_is_bounded_and_one_alone_is_never_suspected(batches) -> None:
    state = Clients()
    for rows in batches:
        units = np.array([unit for unit, _ in rows], dtype=np.uint64)
        state = watch(state, units, np.array([error for _, error in rows], dtype=np.bool_))
    assert len(state.suspects) <= SUSPECTS_MAX
    seen = {unit for rows in batches for unit, _ in rows}
    assert state.several == (0 in seen or len(seen) > 1)
    assert state.suspect() in {0, *seen}
    assert state.suspect() == 0 or len(seen) > 1


@given(st.integers(1, 60), st.data())
def test_the_limit_of_the_past_is_one_that_so_few_errors_seldom_have(answers, data) -> None:
    errors, level = data.draw(st.integers(0, answers)), data.draw(st.floats(1e-6, 0.5))
    limit = upper_limit(errors, answers, level=level)
    assert errors / answers <= limit <= 1.0
    if limit < 1.0:
        tail = sum(math.comb(answers, k) * limit**k * (1 - limit) ** (answers - k) for k in range(errors + 1))
        assert tail <= level * (1 + 1e-6)
    if errors < answers:
        assert limit <= upper_limit(errors + 1, answers, level=level)


def test_a_longer_past_is_held_closer() -> None:
    bounds = [bound_of(Clients(past_answers=n), margin=0.05, level=1 / 400) for n in (0, 1, 30, 300, 3000)]
    assert bounds[:2] == [None, None]
    assert all(wide > narrow for wide, narrow in pairwise(bounds[2:]))


def test_the_past_fades() -> None:
    state = Clients()
    for failing in (1000, 0):
        errors = np.arange(1000) < failing
        for _ in range(150):
            state = remember(state, np.zeros(1000, dtype=np.uint64), errors)
    assert state.past_answers == pytest.approx(PAST_MAX)
    assert 0.0 < state.past_errors / state.past_answers < 0.5


def predictions(version: str, statuses: list[int]) -> tuple[Event, PredictionBatch]:
    columns = PredictionColumns(
        assigned_arm=[version] * len(statuses),
        status_code=statuses,
        latency_us=[1000] * len(statuses),
        unit_hash=[0] * len(statuses),
    )
    message = PredictionBatch(model="m", route_epoch=1, route_revision=1, columns=columns)
    return Event(message=message, id="b", source="t", time=utc_now(), subject="m", correlation_id="b"), message


def test_only_answers_from_400_to_498_are_client_errors() -> None:
    event, message = predictions("1.0.0", [200, 302, 400, 429, 498, 499, 500, 0])
    found = to_batch(event, message, candidate="1.0.0", stable="", concurrent=False).candidate
    assert found.client_errors.tolist() == [False, False, True, True, True, False, False, False]


def test_a_rollout_begins_with_the_past_of_its_stable_version() -> None:
    past = Past()
    past.add(*predictions("1.0.0", [200] * 90 + [400] * 10))
    past.add(*predictions("0.9.0", [400] * 50))
    facts = StepFacts(
        rollout_id="r",
        model="m",
        sequence=1,
        correlation_id="c",
        candidate="1.1.0",
        stable="1.0.0",
        phase="PHASE_STARTING",
        dormant=False,
        terminal=False,
        route=RouteFacts(route=(1, 1), concurrent=True, weight_millionths=0),
        rules=RULES,
    )
    state = past.taught(ModelState(model="m", partition=0).after_step(facts), "r")
    first, second = state.rollouts[0].judge.guards
    assert first.clients is None
    assert (second.clients.past_answers, second.clients.past_errors) == (100, 10)


def test_what_was_longest_ago_is_forgotten_first() -> None:
    past = Past(versions_max=2)
    for version in ("1.0.0", "1.1.0", "1.0.0", "1.2.0"):
        past.add(*predictions(version, [200]))
    assert {version for _, version in past._known} == {"1.0.0", "1.2.0"}
