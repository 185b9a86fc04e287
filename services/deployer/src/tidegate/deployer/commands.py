"""What people may ask of a rollout: pure, total, and each request has its effect once."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import assert_never

from tidegate.deployer import progress, retirement
from tidegate.deployer.events import CommandGiven, Verb
from tidegate.deployer.policies import policy_of
from tidegate.deployer.progress import ignored
from tidegate.deployer.state import (
    REQUEST_IDS_MAX,
    Blessed,
    Decision,
    DeliveryPolicy,
    KnownVersion,
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
    decision = _about_service(seen, event)
    if decision is not None:
        return decision
    rollout = seen.rollout
    if rollout is None or rollout.rollout_id != event.rollout_id:
        return ignored(seen, f"{event.rollout_id or 'no rollout'} does not run")
    if rollout.phase is Phase.ROLLING_BACK:
        return ignored(seen, f"{rollout.rollout_id} is on its way back")
    return _to_running(seen, rollout, event)


def _about_service(state: ModelState, event: CommandGiven) -> Decision | None:
    """Return what follows from a command that names a version or a model; None if it is about a running rollout."""
    match event.verb:
        case Verb.ROLLBACK:
            return _rollback(state, event)
        case Verb.START:
            return _start(state, event)
        case Verb.RETIRE:
            return retirement.retire(state, event)
        case Verb.RESTORE:
            return _restore(state, event)
        case _:
            return None


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
        case Verb.START | Verb.ROLLBACK | Verb.RETIRE | Verb.RESTORE:
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
    """Try a version (again) by the policy that it was blessed with, as a rollout of its own."""
    target = event.number
    refusal = _refusal_of(state, target)
    known = None if target is None else state.version(target)
    if refusal is not None or known is None:
        return refusal or ignored(state, "no version is named")
    policy = policy_of(state, known)
    if policy is None:
        why = f"the policy that {known.number} was blessed with is not kept any more"
        return ignored(state, why, "POLICY_NOT_KEPT")
    if policy.mode == "observe":
        return ignored(state, f"the policy of {known.number} says observe: it is not delivered", "POLICY_OBSERVES")
    cause = f"{event.actor} started it: {event.cause}"
    return progress.open_again(state, _asked(state, known.number, policy, event), known.approval, event.time_s, cause)


def _rollback(state: ModelState, event: CommandGiven) -> Decision:
    rollout = state.rollout
    target = event.number
    if rollout is not None:
        if rollout.phase is Phase.ROLLING_BACK:
            return ignored(state, f"{rollout.rollout_id} is on its way back")
        if rollout.stable is not None and target in {None, rollout.stable}:
            why = f"{event.actor} rolled back to {rollout.stable}"
            return progress.end_with(state, Phase.ROLLED_BACK, why, event.time_s, event.cause)
        return ignored(state, f"{rollout.rollout_id} runs; abort it first", "ROLLOUT_RUNNING")
    target = target or state.previous_stable
    if target in state.breached:
        # Nothing would watch it on its way back to all traffic.
        return ignored(
            state, f"{target} has breached; a breached version is no place to go back to", "VERSION_BREACHED"
        )
    return _switch_to(state, target, event, "a person rolled back")


def _switch_to(state: ModelState, target: Number | None, event: CommandGiven, what: str) -> Decision:
    refusal = _refusal_of(state, target)
    known = None if target is None else state.version(target)
    if refusal is not None or known is None:
        return refusal or ignored(state, "no version is named")
    if known.approval and not known.approved:
        return ignored(state, f"{target} waits for the approval of: {known.approval}", "APPROVAL_MISSING")
    asked = _asked(state, known.number, _switch_policy(), event)
    return progress.open_switch(state, asked, event.time_s, f"{what}: {event.cause}")


def _restore(state: ModelState, event: CommandGiven) -> Decision:
    stable = state.retired.stable if state.retired is not None else None
    switch = None if stable is None else _asked(state, stable, _switch_policy(), event)
    return retirement.restore(state, event, switch)


def _refusal_of(state: ModelState, target: Number | None) -> Decision | None:
    """Return why no rollout of ``target`` can begin now, None if one can."""
    if target is None:
        return ignored(state, "there is no version to go to")
    known = state.version(target)
    if known is None:
        return ignored(state, f"{target} is unknown: it was never registered", "VERSION_NOT_FOUND")
    why, code = _obstacle(state, known)
    return ignored(state, why, code) if why else None


def _obstacle(state: ModelState, known: KnownVersion) -> tuple[str, str]:
    """Return what is in the way of a rollout of a version, with its code; empty texts for nothing."""
    number, rollout_id = known.number, "" if state.rollout is None else state.rollout.rollout_id
    cases = (
        (state.retired is not None, "the model is retired", "MODEL_RETIRED"),
        (known.retired, f"{number} is retired", "VERSION_RETIRED"),
        (any(one.number == number for one in state.queue), f"{number} waits for its turn already", "ROLLOUT_RUNNING"),
        (bool(rollout_id), f"{rollout_id} runs; wait for its end, or abort it", "ROLLOUT_RUNNING"),
        (
            not known.blessed,
            f"{number} is not blessed: its validation failed or is not done",
            "VERSION_NOT_BLESSED",
        ),
        (number == state.stable, f"{number} is stable already", "VERSION_STABLE"),
    )
    return next(((why, code) for holds, why, code in cases if holds), ("", ""))


def _asked(state: ModelState, number: Number, policy: DeliveryPolicy, event: CommandGiven) -> Blessed:
    """Return what a person asks to be delivered; each request has a rollout of its own."""
    digest = hashlib.sha256(event.request_id.encode()).hexdigest()[:8]
    return Blessed(
        number=number,
        policy=policy,
        cause_id=event.request_id,
        rollout_id=f"{state.model}-{number}-{digest}",
        correlation_id=event.request_id,
    )


def _switch_policy() -> DeliveryPolicy:
    switch = Strategy(name="blue_green", steps=(1.0,), bake_s=0.0)
    return DeliveryPolicy(
        revision=0, on_first=switch, on_major=switch, on_minor=switch, on_pipeline=switch, settle_s=0.0
    )
