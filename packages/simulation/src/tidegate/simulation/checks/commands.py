"""Commands of people: the first of an id does what it promises, any other nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tidegate.deployer import events as core
from tidegate.deployer.events import CommandGiven, Verb
from tidegate.deployer.state import Decision, ModelState, Number, Phase, Rollout
from tidegate.simulation.checks.facts import Decided, Facts
from tidegate.simulation.checks.retirement import check_retirement
from tidegate.simulation.invariants import Invariant
from tidegate.simulation.world import Broken

Phases = frozenset[Phase]

BEFORE_TRAFFIC: Final = frozenset({Phase.STARTING, Phase.AWAITING_APPROVAL})
IN_TRAFFIC: Final = frozenset({Phase.STEPPING, Phase.SETTLING})
NOTHING: Final[Phases] = frozenset()


class CommandChecks:
    """Sees each command, and what it leads to."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._heard: set[tuple[str, str]] = set()

    def check(self, one: Decided) -> None:
        """Check one decision, if a command is what it answers."""
        event = one.event
        if not isinstance(event, core.CommandGiven):
            return
        ignored = one.decision.reason.startswith("ignored")
        self._facts.world.count(f"command: {event.verb} {'ignored' if ignored else 'obeyed'}")
        if (one.model, event.request_id) in self._heard:
            self._facts.world.count("command: heard again")
            if one.decision.steps or one.decision.route_changed:
                told = f"{event.request_id} ({event.verb}) again: {one.decision.reason}"
                raise Broken(Invariant.COMMANDS_COUNT_ONCE, told)
            return
        self._heard.add((one.model, event.request_id))
        rollout = one.before.rollout
        check_retirement(one, event)
        if rollout is None:
            self._check_opens(one, event)
        else:
            _check_running(one, rollout, event)

    def _check_opens(self, one: Decided, event: CommandGiven) -> None:
        """Check that START and ROLLBACK open a rollout where they can."""
        target = self._target(one.before, event)
        if target is None:
            return
        after = one.decision.state.rollout
        if after is None or after.candidate != target or not one.decision.steps:
            told = f"{event.verb} of {one.model}@{target}: {one.decision.reason}"
            raise Broken(Invariant.COMMANDS_WORK, told)

    def _target(self, state: ModelState, event: CommandGiven) -> Number | None:
        """Return the version that a person may try or switch to with this command, None if it may do nothing."""
        number = event.number
        if event.verb is Verb.ROLLBACK:
            number = number or state.previous_stable
        elif event.verb is not Verb.START:
            return None
        known = None if number is None else state.version(number)
        if known is None or not known.blessed or known.number == state.stable:
            return None
        if known.retired or state.retired is not None:
            return None
        if event.verb is Verb.START:
            return None if self._facts.policies[state.model].mode == "observe" else known.number
        if known.number in state.breached:
            return None
        return None if known.approval and not known.approved else known.number


def _check_running(one: Decided, rollout: Rollout, event: CommandGiven) -> None:
    wanted = _promised(one.before, rollout, event)
    if not wanted:
        return
    phase = _phase_after(one.decision, rollout)
    told = f"{event.verb} of {rollout.rollout_id} in {rollout.phase}"
    if phase not in wanted:
        raise Broken(Invariant.COMMANDS_WORK, f"{told}: it is {phase} now, promised is {', '.join(sorted(wanted))}")
    after = one.decision.state.rollout
    if event.verb is Verb.PROMOTE and phase in IN_TRAFFIC and after is not None:
        last = len(rollout.steps) - 1
        step = last if event.full else min(rollout.step_index + 1, last)
        if after.step_index != step:
            raise Broken(Invariant.COMMANDS_WORK, f"{told}: it is at step {after.step_index}, promised is {step}")


def _promised(state: ModelState, rollout: Rollout, event: CommandGiven) -> Phases:
    """Return the phases that a command must lead to; none if it may do nothing."""
    if rollout.phase is Phase.ROLLING_BACK:
        return NOTHING
    if event.verb is Verb.ROLLBACK:
        is_back = rollout.stable is not None and event.number in {None, rollout.stable}
        return frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK}) if is_back else NOTHING
    if event.verb is Verb.PROMOTE and rollout.phase is Phase.SETTLING and not state.ready_endpoint(rollout.candidate):
        # Stable answers in its place, and would be stopped.
        return NOTHING
    promise = _PROMISES.get(event.verb)
    return NOTHING if promise is None or event.rollout_id != rollout.rollout_id else promise(rollout)


def _abort(_rollout: Rollout) -> Phases:
    return frozenset({Phase.ROLLING_BACK, Phase.ABORTED})


def _pause(rollout: Rollout) -> Phases:
    return frozenset({Phase.PAUSED}) if rollout.phase is not Phase.PAUSED else NOTHING


def _approve(rollout: Rollout) -> Phases:
    return IN_TRAFFIC | {Phase.STARTING} if rollout.phase is Phase.AWAITING_APPROVAL else NOTHING


def _resume(rollout: Rollout) -> Phases:
    back = rollout.resume_phase
    if rollout.breached_guard or rollout.phase is not Phase.PAUSED or back is None:
        return NOTHING
    return IN_TRAFFIC | BEFORE_TRAFFIC if back in BEFORE_TRAFFIC else frozenset({back})


def _promote(rollout: Rollout) -> Phases:
    if rollout.breached_guard:
        return NOTHING
    if rollout.phase is Phase.SETTLING:
        return frozenset({Phase.PROMOTED})
    return IN_TRAFFIC if Phase.STEPPING in {rollout.phase, rollout.resume_phase} else NOTHING


_PROMISES: Final[dict[Verb, Callable[[Rollout], Phases]]] = {
    Verb.ABORT: _abort,
    Verb.PAUSE: _pause,
    Verb.APPROVE: _approve,
    Verb.RESUME: _resume,
    Verb.PROMOTE: _promote,
}


def _phase_after(decision: Decision, rollout: Rollout) -> Phase | None:
    """Return what was published of the rollout, if its state says the same; None if nothing was."""
    published = next((step.rollout for step in decision.steps if step.rollout.rollout_id == rollout.rollout_id), None)
    after = decision.state.rollout
    if published is None or (
        after is not None and after.rollout_id == rollout.rollout_id and after.phase != published.phase
    ):
        return None
    return published.phase
