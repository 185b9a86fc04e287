"""How rollouts move ``stable`` and ``candidate``."""

from __future__ import annotations

import pytest

from tidegate.contracts.names import format_version, parse_version
from tidegate.registry.catalog.aliases import moves_of
from tidegate.v1.rollout_events_pb2 import Phase, RolloutStep

OLD, NEW = "1.0.0", "1.1.0"


def moves(phase, *, stable=OLD, candidate=None, step_stable=OLD):
    step = RolloutStep(model="m", rollout_id="r", candidate=parse_version(NEW), phase=Phase.Value(f"PHASE_{phase}"))
    if step_stable:
        step.stable.CopyFrom(parse_version(step_stable))
    found = moves_of(
        step,
        stable=parse_version(stable) if stable else None,
        candidate=parse_version(candidate) if candidate else None,
    )
    return [(move.alias, format_version(move.version) if move.version is not None else None) for move in found]


@pytest.mark.parametrize("phase", ["STARTING", "STEPPING", "HOLDING", "PAUSED", "AWAITING_APPROVAL", "ROLLING_BACK"])
def test_the_candidate_is_named_while_it_is_on_trial(phase):
    assert moves(phase) == [("candidate", NEW)]
    assert moves(phase, candidate=NEW) == []


def test_nothing_moves_before_the_rollout_begins():
    assert moves("PENDING") == []


def test_stable_moves_when_all_traffic_has_moved():
    assert moves("SETTLING", candidate=NEW) == [("stable", NEW)]
    assert moves("SETTLING", candidate=NEW, stable=None, step_stable=None) == [("stable", NEW)]
    assert moves("SETTLING", candidate=NEW, stable=NEW) == []


def test_promotion_ends_the_candidate():
    assert moves("PROMOTED", candidate=NEW, stable=NEW) == [("candidate", None)]


def test_a_rollback_before_the_switch_leaves_stable():
    assert moves("ROLLED_BACK", candidate=NEW) == [("candidate", None)]


@pytest.mark.parametrize("phase", ["ROLLED_BACK", "ABORTED", "SUPERSEDED"])
def test_an_end_other_than_promotion_after_the_switch_takes_stable_back(phase):
    assert moves(phase, candidate=NEW, stable=NEW) == [("stable", OLD), ("candidate", None)]


def test_a_first_version_that_is_rolled_back_leaves_no_stable():
    assert moves("ROLLED_BACK", candidate=NEW, stable=NEW, step_stable=None) == [("stable", None), ("candidate", None)]


def test_a_first_version_that_is_superseded_serves_on():
    assert moves("SUPERSEDED", candidate=NEW, stable=NEW, step_stable=None) == [("candidate", None)]


def test_an_ended_rollout_does_not_touch_the_candidate_of_another():
    assert moves("SUPERSEDED", candidate="2.0.0") == []
