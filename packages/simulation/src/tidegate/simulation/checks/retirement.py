"""Retirements: what people may take out of service goes, and comes back when they say so."""

from __future__ import annotations

from tidegate.deployer.events import CommandGiven, Verb
from tidegate.deployer.state import ModelState, Number
from tidegate.simulation.checks.facts import Decided
from tidegate.simulation.invariants import Invariant
from tidegate.simulation.world import Broken


def check_retirement(one: Decided, event: CommandGiven) -> None:
    """Check that RETIRE and RESTORE do what they promise wherever they must work."""
    if event.verb not in {Verb.RETIRE, Verb.RESTORE}:
        return
    before, after = one.before, one.decision.state
    told = f"{event.verb} of {one.model}@{event.number or 'all'}: {one.decision.reason}"
    if event.number is None:
        is_asked = (before.retired is None and before.rollout is None) if event.verb is Verb.RETIRE else _was(before)
        is_done = (after.retired is not None) == (event.verb is Verb.RETIRE) and _has_come_back(before, after)
    else:
        is_asked = _may_retire(before, event.number, event.verb)
        is_done = _is_retired(after, event.number) == (event.verb is Verb.RETIRE)
    if is_asked and not (is_done and one.decision.retirement is not None):
        raise Broken(Invariant.COMMANDS_WORK, told)
    if not is_asked and one.decision.retirement is not None:
        raise Broken(Invariant.COMMANDS_WORK, f"{told}: nothing was promised")


def _was(state: ModelState) -> bool:
    return state.retired is not None


def _has_come_back(before: ModelState, after: ModelState) -> bool:
    """Say whether the version that was stable is on its way, where a model was brought back."""
    if before.retired is None or after.retired is not None or before.retired.stable is None:
        return True
    return after.rollout is not None and after.rollout.candidate == before.retired.stable


def _may_retire(state: ModelState, number: Number, verb: Verb) -> bool:
    if state.version(number) is None or _is_retired(state, number) == (verb is Verb.RETIRE):
        return False
    if verb is Verb.RESTORE:
        return True
    rollout, stable = state.rollout, state.stable if state.retired is None else state.retired.stable
    in_service = {stable} if rollout is None else {stable, rollout.candidate, rollout.stable}
    return number not in in_service


def _is_retired(state: ModelState, number: Number) -> bool:
    known = state.version(number)
    return known is not None and known.retired
