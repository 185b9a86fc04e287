"""Models and versions that people take out of service, and bring back. Pure.

What is about a running rollout is refused: abort it first, and nobody is surprised by what becomes of its traffic.
"""

from __future__ import annotations

from dataclasses import replace

from tidegate.deployer import progress
from tidegate.deployer.events import CommandGiven
from tidegate.deployer.progress import ignored
from tidegate.deployer.state import Blessed, Decision, KnownVersion, ModelState, Number, Retired, RetirementRecord


def retire(state: ModelState, event: CommandGiven) -> Decision:
    """Return what follows when a person takes a version, or the whole model, out of service."""
    if event.number is None:
        return _retire_model(state, event)
    known = state.version(event.number)
    if known is None:
        return ignored(state, f"{event.number} is unknown: it was never registered", "VERSION_NOT_FOUND")
    if known.retired:
        return ignored(state, f"{known.number} is retired already", "RETIRED_ALREADY")
    if known.number == (state.retired.stable if state.retired is not None else state.stable):
        why = f"{known.number} is stable: roll back to another version first, or retire the whole model"
        return ignored(state, why, "VERSION_STABLE")
    rollout = state.rollout
    if rollout is not None and known.number in {rollout.candidate, rollout.stable}:
        return ignored(state, f"{rollout.rollout_id} runs with it; abort it first", "ROLLOUT_RUNNING")
    return _retire_version(state, known, event)


def restore(state: ModelState, event: CommandGiven, blessed: Blessed | None) -> Decision:
    """Return what follows when a person brings back what was retired; ``blessed`` is the switch to a model's stable."""
    if event.number is None:
        return _restore_model(state, event, blessed)
    known = state.version(event.number)
    if known is None:
        return ignored(state, f"{event.number} is unknown: it was never registered", "VERSION_NOT_FOUND")
    if not known.retired:
        return ignored(state, f"{known.number} is not retired", "NOT_RETIRED")
    return _restore_version(state, known, event)


def _retire_model(state: ModelState, event: CommandGiven) -> Decision:
    if state.retired is not None:
        return ignored(state, "the model is retired already", "RETIRED_ALREADY")
    if state.rollout is not None:
        return ignored(state, f"{state.rollout.rollout_id} runs; abort it first", "ROLLOUT_RUNNING")
    kept = Retired(stable=state.stable, retained=state.retained)
    gone = replace(state, retired=kept, stable=None, retained=())
    why = f"{event.actor} took the model out of service: its paths answer 404, its servers stop"
    return _told(progress.follow_route(gone, why, event.time_s, event.cause), event, why)


def _restore_model(state: ModelState, event: CommandGiven, blessed: Blessed | None) -> Decision:
    if state.retired is None:
        return ignored(state, "the model is not retired", "NOT_RETIRED")
    back = replace(state, retired=None, retained=state.retired.retained)
    if blessed is None:
        return _told(Decision(state=back), event, f"{event.actor} brought the model back; no version served before")
    why = f"{event.actor} brought the model back; {blessed.number} serves as soon as it is ready"
    cause = f"{event.actor} brought the model back: {event.cause}"
    return _told(progress.open_switch(back, blessed, event.time_s, cause), event, why)


def _retire_version(state: ModelState, known: KnownVersion, event: CommandGiven) -> Decision:
    number = known.number
    held_line = number in (state.retained if state.retired is None else state.retired.retained)
    gone = state.with_version(replace(known, retired=True, held_line=held_line))
    gone = replace(
        gone,
        retained=_without(gone.retained, number),
        queue=tuple(one for one in gone.queue if one.number != number),
    )
    if gone.retired is not None:
        gone = replace(gone, retired=replace(gone.retired, retained=_without(gone.retired.retained, number)))
    line = f"; line {number.major} ends" if held_line else ""
    why = f"{event.actor} took {number} out of service{line}"
    return _told(progress.follow_route(gone, why, event.time_s, event.cause), event, why)


def _restore_version(state: ModelState, known: KnownVersion, event: CommandGiven) -> Decision:
    number = known.number
    back = state.with_version(replace(known, retired=False, held_line=False))
    if not known.held_line or not _is_line_free(state, number):
        why = f"{event.actor} brought {number} back; it may be started"
    else:
        why = f"{event.actor} brought {number} back; line {number.major} comes back as soon as it is ready"
        if back.retired is not None:
            back = replace(back, retired=replace(back.retired, retained=_with(back.retired.retained, number)))
        else:
            back = replace(back, retained=_with(back.retained, number))
    return _told(progress.follow_route(back, why, event.time_s, event.cause), event, why)


def _is_line_free(state: ModelState, number: Number) -> bool:
    """Say whether no other version has the MAJOR line of ``number``, or is about to."""
    stable, retained = state.stable, state.retained
    if state.retired is not None:
        stable, retained = state.retired.stable, state.retired.retained
    rollout = state.rollout
    others = {stable, *retained} | ({rollout.candidate, rollout.stable} if rollout is not None else set())
    return stable is not None and number.major not in {one.major for one in others if one is not None}


def _told(decision: Decision, event: CommandGiven, why: str) -> Decision:
    """Return the decision with what is published of it, after its steps."""
    state = decision.state
    sequence = state.sequence + 1
    record = RetirementRecord(
        number=event.number,
        is_retired=event.verb == "RETIRE",
        sequence=sequence,
        route_epoch=state.route.epoch,
        route_revision=state.route.revision,
        actor=event.actor,
        reason=why,
        cause=event.cause,
        time_s=event.time_s,
        rollout_id=decision.steps[-1].rollout.rollout_id if decision.steps else "",
        request_id=event.request_id,
    )
    return replace(decision, state=replace(state, sequence=sequence), retirement=record, reason=why)


def _without(numbers: tuple[Number, ...], number: Number) -> tuple[Number, ...]:
    return tuple(one for one in numbers if one != number)


def _with(numbers: tuple[Number, ...], number: Number) -> tuple[Number, ...]:
    return tuple(sorted({*numbers, number}))
