"""Which rollouts are watched, which batches are theirs, and that the state survives JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tidegate.monitor.judges.judge import decide
from tidegate.monitor.judges.replay import canonical
from tidegate.monitor.judges.values import ArmBatch, Batch, Guard, Rules
from tidegate.monitor.rollouts import RECENT_IDS_MAX, Fit, ModelState, RouteFacts, StepFacts, read_model_state

RULES = Rules(
    guards=(
        Guard(metric="error_rate", margin=0.02, floor=0.05),
        Guard(metric="latency_ms", ratio=1.2, ceiling=500.0),
        Guard(metric="accuracy", margin=0.01),
    )
)
EMPTY = ModelState(model="flight-delay", partition=3)


def facts(
    sequence: int,
    *,
    rollout_id: str = "r-1",
    route: tuple[int, int] = (1, 1),
    concurrent: bool = True,
    dormant: bool = False,
    terminal: bool = False,
) -> StepFacts:
    return StepFacts(
        rollout_id=rollout_id,
        model="flight-delay",
        sequence=sequence,
        correlation_id="c-1",
        candidate="1.1.0",
        stable="1.0.0",
        phase="PHASE_STEPPING",
        dormant=dormant,
        terminal=terminal,
        route=RouteFacts(route=route, concurrent=concurrent, weight_millionths=100_000),
        rules=RULES,
    )


def arm(requests: int, failures: int, latency_ms: float) -> ArmBatch:
    latencies = np.full(requests - failures, latency_ms * 1000, dtype=np.uint64)
    return ArmBatch(
        requests=requests,
        failures=failures,
        broken=failures,
        latencies_us=latencies,
        first_failure_us=7 if failures else 0,
    )


def weighed(state: ModelState, count: int, *, concurrent: bool = True) -> ModelState:
    """Return the state after ``count`` batches."""
    for number in range(count):
        (rollout,) = state.rollouts
        offset = state.offset + 1
        batch = Batch(
            route=(1, 1),
            start_us=offset * 250_000,
            end_us=(offset + 1) * 250_000,
            partition=3,
            offset=offset,
            concurrent=concurrent,
            candidate=arm(20, number % 3, 30.0),
            stable=arm(30, 1, 20.0) if concurrent else arm(0, 0, 0.0),
        )
        judge = decide(rollout.judge, batch).state
        state = state.after_batch(offset, f"id-{offset}").with_rollout(replace(rollout, judge=judge))
    return state


def test_step_begins_and_terminal_step_ends_a_rollout() -> None:
    begun = EMPTY.after_step(facts(1))
    assert [one.rollout_id for one in begun.rollouts] == ["r-1"]
    assert begun.after_step(facts(2, terminal=True)).rollouts == ()


def test_step_that_is_not_newer_changes_nothing() -> None:
    begun = EMPTY.after_step(facts(5))
    assert begun.after_step(facts(5, terminal=True)) is begun
    assert begun.after_step(facts(4, terminal=True)) is begun


def test_pending_rollout_is_not_watched() -> None:
    assert EMPTY.after_step(facts(1, dormant=True)).rollouts == ()


def test_later_step_keeps_evidence_and_rules() -> None:
    before = weighed(EMPTY.after_step(facts(1)), 9)
    changed = replace(facts(2, route=(1, 2)), rules=Rules(guards=()))
    (rollout,) = before.after_step(changed).rollouts
    assert rollout.judge == before.rollouts[0].judge


@pytest.mark.parametrize(
    ("route", "fit"),
    [((1, 2), Fit.KNOWN), ((2, 1), Fit.KNOWN), ((1, 1), Fit.OLDER), ((1, 3), Fit.OLDER), ((2, 2), Fit.NEWER)],
)
def test_batch_belongs_to_the_rollout_that_named_its_route(route: tuple[int, int], fit: Fit) -> None:
    (rollout,) = EMPTY.after_step(facts(1, route=(1, 2))).after_step(facts(2, route=(2, 1), concurrent=False)).rollouts
    assert rollout.fit(route)[0] is fit
    assert rollout.fit((1, 2))[1].concurrent
    assert not rollout.fit((2, 1))[1].concurrent


def test_batch_counts_once_by_offset_and_by_id() -> None:
    state = EMPTY.after_batch(10, "id-10")
    assert state.has_counted(10, "another")
    assert state.has_counted(9, "another")
    assert state.has_counted(11, "id-10")
    assert not state.has_counted(11, "id-11")


def test_memory_of_ids_is_bounded() -> None:
    state = EMPTY
    for offset in range(3 * RECENT_IDS_MAX):
        state = state.after_batch(offset, f"id-{offset}")
    assert len(state.recent_ids) == RECENT_IDS_MAX


@pytest.mark.parametrize("concurrent", [True, False])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_state_comes_back_from_json_bit_for_bit(count: int, *, concurrent: bool) -> None:
    state = weighed(EMPTY.after_step(facts(1)), count, concurrent=concurrent)
    again = read_model_state(json.loads(canonical(state.to_json())))
    assert again == state
    assert weighed(again, 5, concurrent=concurrent) == weighed(state, 5, concurrent=concurrent)


def test_state_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 1"):
        read_model_state({"format": 99})
