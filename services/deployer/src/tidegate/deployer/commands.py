"""What people may ask of a rollout: pure, total, and each request has its effect once."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import assert_never

from tidegate.deployer import progress
from tidegate.deployer.events import CommandGiven, Verb
from tidegate.deployer.progress import ignored
from tidegate.deployer.state import (
    REQUEST_IDS_MAX,
    Blessed,
    Decision,
    DeliveryPolicy,
    ModelState,
    Number,
    Phase,
    Rollout,
    Strategy,
)


def command_given(state: ModelState, event: CommandGiven) -> Decision:
    """Return what follows from a person's command; a request id that was seen before changes nothing."""
    if event.request_id in state.request_ids:
        return ignored(state, f"request {event.request_id} had its effect")
    seen = replace(state, request_ids=(*state.request_ids, event.request_id)[-REQUEST_IDS_MAX:])
    if event.verb is Verb.ROLLBACK:
        return _rollback(seen, event)
    if event.verb is Verb.START:
        return _start(seen, event)
    rollout = seen.rollout
    if rollout is None or rollout.rollout_id != event.rollout_id:
        return ignored(seen, f"{event.rollout_id or 'no rollout'} does not run")
    if rollout.phase is Phase.ROLLING_BACK:
        return ignored(seen, f"{rollout.rollout_id} is on its way back")
    return _to_running(seen, rollout, event)


def _to_running(state: ModelState, rollout: Rollout, event: CommandGiven) -> Decision:
    match event.verb:
        case Verb.ABORT:
            return progress.end_with(state, Phase.ABORTED, f"{event.actor} aborted it", event.time_s, event.cause)
        case Verb.PAUSE:
            return _pause(state, rollout, event)
        case Verb.RESUME:
            return _resume(state, rollout, event)
        case Verb.PROMOTE:
            return _promote(state, rollout, event)
        case Verb.APPROVE:
            return _approve(state, rollout, event)
        case Verb.START | Verb.ROLLBACK:
            raise ValueError(f"{event.verb} is not about a running rollout")
        case _:
            assert_never(event.verb)


def _pause(state: ModelState, rollout: Rollout, event: CommandGiven) -> Decision:
    if rollout.phase is Phase.PAUSED:
        return ignored(state, "it is paused already")
    return progress.pause(state, f"{event.actor} paused it", event.time_s, event.cause)


def _resume(state: ModelState, rollout: Rollout, event: CommandGiven) -> Decision:
    if rollout.breached_guard:
        return ignored(state, f"it has breached {rollout.breached_guard}; a new rollout is needed")
    if rollout.phase is not Phase.PAUSED:
        return ignored(state, "it is not paused")
    return progress.resume(state, f"{event.actor} resumed it", event.time_s, event.cause)


def _promote(state: ModelState, rollout: Rollout, event: CommandGiven) -> Decision:
    if rollout.breached_guard:
        return ignored(state, f"it has breached {rollout.breached_guard}; a new rollout is needed")
    if rollout.phase is Phase.SETTLING and not state.ready_endpoint(rollout.candidate):
        return ignored(state, f"the server of {rollout.candidate} is not ready, and stable answers in its place")
    if rollout.phase is Phase.SETTLING:
        why = f"{event.actor} ended the rollback window"
        return progress.close(state, Phase.PROMOTED, why, event.time_s, event.cause)
    if not rollout.has_traffic or rollout.resume_phase is Phase.SETTLING:
        return ignored(state, f"it is {rollout.phase}, expected STEPPING or SETTLING")
    last = len(rollout.steps) - 1
    index = last if event.full else min(rollout.step_index + 1, last)
    return progress.enter_step(state, index, f"{event.actor} promoted it", event.time_s, event.cause)


def _approve(state: ModelState, rollout: Rollout, event: CommandGiven) -> Decision:
    if rollout.phase is not Phase.AWAITING_APPROVAL:
        return ignored(state, "it waits for no approval")
    known = state.version(rollout.candidate)
    consented = state if known is None else state.with_version(replace(known, approved=True))
    approved = replace(consented, rollout=replace(rollout, approval=""))
    return progress.approve(approved, f"{event.actor} approved it", event.time_s, event.cause)


def _start(state: ModelState, event: CommandGiven) -> Decision:
    return _switch_to(state, event.number, event, "a person started it")


def _rollback(state: ModelState, event: CommandGiven) -> Decision:
    rollout = state.rollout
    target = event.number
    if rollout is not None:
        if rollout.phase is Phase.ROLLING_BACK:
            return ignored(state, f"{rollout.rollout_id} is on its way back")
        if rollout.stable is not None and target in {None, rollout.stable}:
            why = f"{event.actor} rolled back to {rollout.stable}"
            return progress.end_with(state, Phase.ROLLED_BACK, why, event.time_s, event.cause)
        return ignored(state, f"{rollout.rollout_id} runs; abort it first")
    target = target or state.previous_stable
    if target in state.breached:
        # Nothing would watch it on its way back to all traffic.
        return ignored(state, f"{target} has breached; a breached version is no place to go back to")
    return _switch_to(state, target, event, "a person rolled back")


def _switch_to(state: ModelState, target: Number | None, event: CommandGiven, what: str) -> Decision:
    if target is None:
        return ignored(state, "there is no version to go to")
    if state.rollout is not None:
        return ignored(state, f"{state.rollout.rollout_id} runs")
    known = state.version(target)
    if known is None or not known.blessed:
        why = (
            "unknown: it was never registered" if known is None else "not blessed: its validation failed or is not done"
        )
        return ignored(state, f"{target} is {why}")
    if known.approval and not known.approved:
        return ignored(state, f"{target} waits for the approval of: {known.approval}")
    if target == state.stable:
        return ignored(state, f"{target} is stable already")
    blessed = Blessed(
        number=target,
        policy=_switch_policy(),
        cause_id=event.request_id,
        rollout_id=f"{state.model}-{target}-{hashlib.sha256(event.request_id.encode()).hexdigest()[:8]}",
        correlation_id=event.request_id,
    )
    return progress.open_switch(state, blessed, event.time_s, f"{what}: {event.cause}")


def _switch_policy() -> DeliveryPolicy:
    switch = Strategy(name="blue_green", steps=(1.0,), bake_s=0.0)
    return DeliveryPolicy(
        revision=0, on_first=switch, on_major=switch, on_minor=switch, on_pipeline=switch, settle_s=0.0
    )
