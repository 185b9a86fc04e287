"""How a rollout moves: opened, stepped, paused, held, sent back, closed. Pure; each move publishes one step."""

from __future__ import annotations

from dataclasses import replace

from tidegate.deployer.routes import rerouted
from tidegate.deployer.state import (
    TERMINAL_PHASES,
    Arm,
    Blessed,
    Decision,
    ModelState,
    Phase,
    Role,
    Rollout,
    StepRecord,
)
from tidegate.deployer.strategies import strategy_for

ROLLOUT_IDS_MAX = 500


def ignored(state: ModelState, reason: str, code: str = "") -> Decision:
    """Return the decision to change nothing, and why; ``code`` where callers tell reasons apart."""
    return Decision(state=state, reason=f"ignored: {reason}", code=code)


def published(state: ModelState, reason: str, time_s: float, cause: str, *, route_changed: bool) -> Decision:
    """Return a decision that publishes where the active rollout stands now (nothing if there is none)."""
    if state.rollout is None:
        return Decision(state=state, route_changed=route_changed, reason=reason)
    sequence = state.sequence + 1
    step = StepRecord(
        rollout=state.rollout,
        sequence=sequence,
        arms=_arms(state),
        route_epoch=state.route.epoch,
        route_revision=state.route.revision,
        reason=reason,
        cause=cause,
        time_s=time_s,
    )
    return Decision(state=replace(state, sequence=sequence), steps=(step,), route_changed=route_changed, reason=reason)


def _arms(state: ModelState) -> tuple[Arm, ...]:
    """Return the arms of the rollout as the route has them; both versions are named, also at weight 0."""
    rollout = state.rollout
    if rollout is None:
        return ()
    weights = {arm.number: arm.weight_millionths for line in state.route.lines[:1] for arm in line.arms}
    arms = [Arm(number=rollout.candidate, role=Role.CANDIDATE, weight_millionths=weights.get(rollout.candidate, 0))]
    if rollout.stable is not None:
        arms.insert(0, Arm(number=rollout.stable, role=Role.STABLE, weight_millionths=weights.get(rollout.stable, 0)))
    return tuple(arms)


def follow_route(state: ModelState, reason: str, time_s: float, cause: str) -> Decision:
    """Return the decision to put a changed route (an endpoint moved) in force; a running rollout says so."""
    routed = rerouted(state)
    if routed is state:
        return Decision(state=state, reason=reason)
    if routed.rollout is None:
        return Decision(state=routed, route_changed=True, reason=reason)
    return published(_step_renewed(routed), reason, time_s, cause, route_changed=True)


def _step_renewed(state: ModelState) -> ModelState:
    """Start the step's clock and evidence anew, since they belong to a route."""
    if state.rollout is None:
        return state
    return replace(state, rollout=replace(state.rollout, step_acknowledged_s=None, evidence=()))


def open_rollout(state: ModelState, blessed: Blessed, time_s: float, cause: str) -> Decision:
    """Open a rollout: its candidate's server is wanted from now on."""
    strategy = strategy_for(blessed.number, state.stable, blessed.policy)
    return _open(state, blessed, strategy.name, strategy.steps, strategy.bake_s, strategy.approval, time_s, cause)


def open_again(state: ModelState, blessed: Blessed, approval: str, time_s: float, cause: str) -> Decision:
    """Open a rollout that a person asks for, by the version's own policy; ``approval`` is wanted if that wants none."""
    strategy = strategy_for(blessed.number, state.stable, blessed.policy)
    wanted = strategy.approval or approval
    return _open(state, blessed, strategy.name, strategy.steps, strategy.bake_s, wanted, time_s, cause)


def open_switch(state: ModelState, blessed: Blessed, time_s: float, cause: str) -> Decision:
    """Open a rollout that switches at once, as a person who goes back to an earlier version wants."""
    return _open(state, blessed, "blue_green", (1.0,), 0.0, "", time_s, cause)


def _open(  # noqa: PLR0917
    state: ModelState,
    blessed: Blessed,
    strategy: str,
    steps: tuple[float, ...],
    bake_s: float,
    approval: str,
    time_s: float,
    cause: str,
) -> Decision:
    rollout = Rollout(
        rollout_id=blessed.rollout_id,
        correlation_id=blessed.correlation_id,
        candidate=blessed.number,
        stable=state.stable,
        strategy=strategy,
        steps=steps,
        bake_s=bake_s,
        policy=blessed.policy,
        phase=Phase.STARTING,
        began_s=time_s,
        approval=approval,
        heartbeat_s=time_s,
    )
    remembered = (*state.rollout_ids, rollout.rollout_id)[-ROLLOUT_IDS_MAX:]
    opened = replace(state, rollout=rollout, rollout_ids=remembered)
    after = "as the first version" if state.stable is None else f"after stable {state.stable}"
    shares = ", ".join(f"{100 * share:g} %" for share in steps)
    why = f"{blessed.number} is delivered {after} by {strategy}: {shares}"
    decision = published(opened, why, time_s, cause, route_changed=False)
    if not opened.ready_endpoint(rollout.candidate):
        return decision
    return followed(decision, candidate_ready(decision.state, time_s, cause))


def followed(first: Decision, second: Decision) -> Decision:
    """Return two decisions as one, in order."""
    return Decision(
        state=second.state,
        steps=(*first.steps, *second.steps),
        route_changed=first.route_changed or second.route_changed,
        reason=f"{first.reason}; {second.reason}",
        retirement=first.retirement or second.retirement,
    )


def candidate_ready(state: ModelState, time_s: float, cause: str) -> Decision:
    """Give the candidate its first step, or wait for the approval that the policy wants."""
    rollout = _running(state)
    known = state.version(rollout.candidate)
    if rollout.approval and not (known is not None and known.approved):
        waiting = rerouted(_in_phase(state, Phase.AWAITING_APPROVAL))
        why = f"{rollout.candidate} is ready; the policy wants the approval of: {rollout.approval}"
        return published(waiting, why, time_s, cause, route_changed=waiting.route is not state.route)
    return enter_step(state, 0, f"{rollout.candidate} is ready", time_s, cause)


def enter_step(state: ModelState, index: int, why: str, time_s: float, cause: str) -> Decision:
    """Give the candidate the share of step ``index``; the last step is SETTLING."""
    rollout = _running(state)
    share = rollout.steps[index]
    phase = Phase.SETTLING if share >= 1.0 else Phase.STEPPING
    stepped = replace(
        rollout,
        phase=phase,
        step_index=index,
        step_acknowledged_s=None,
        evidence=(),
        resume_phase=None,
        heartbeat_s=time_s,
    )
    routed = _renewed(rerouted(replace(state, rollout=stepped)), state)
    # The evidence that earned the step is published with it, and then gathered anew.
    shown = replace(routed, rollout=replace(stepped, evidence=rollout.evidence))
    is_new = routed.route is not state.route
    decision = published(shown, f"{why}; now {100 * share:g} %", time_s, cause, route_changed=is_new)
    return replace(decision, state=replace(decision.state, rollout=stepped))


def _renewed(routed: ModelState, before: ModelState) -> ModelState:
    """Return the state with a new revision of its route, also where nothing moved: evidence belongs to one step."""
    if routed.route is not before.route:
        return routed
    route = replace(routed.route, revision=routed.route.revision + 1, acknowledged=False)
    return replace(routed, route=route)


def approve(state: ModelState, why: str, time_s: float, cause: str) -> Decision:
    """Let an approved candidate begin; if its server is down just now, wait for it."""
    rollout = _running(state)
    if state.ready_endpoint(rollout.candidate):
        return enter_step(state, 0, why, time_s, cause)
    return published(_in_phase(state, Phase.STARTING), why, time_s, cause, route_changed=False)


def pause(state: ModelState, why: str, time_s: float, cause: str) -> Decision:
    """Stay at this step until a person says otherwise."""
    return _stopped(state, Phase.PAUSED, why, time_s, cause)


def hold(state: ModelState, why: str, time_s: float, cause: str) -> Decision:
    """Stay at this step until evidence can arrive again."""
    return _stopped(state, Phase.HOLDING, why, time_s, cause)


def _stopped(state: ModelState, phase: Phase, why: str, time_s: float, cause: str) -> Decision:
    rollout = _running(state)
    back = rollout.resume_phase or rollout.phase
    stopped = replace(state, rollout=replace(rollout, phase=phase, resume_phase=back))
    return published(stopped, why, time_s, cause, route_changed=False)


def resume(state: ModelState, why: str, time_s: float, cause: str) -> Decision:
    """Go back to the phase before PAUSED or HOLDING."""
    rollout = _running(state)
    back = rollout.resume_phase or rollout.phase
    resumed = replace(state, rollout=replace(rollout, phase=back, resume_phase=None))
    if back in {Phase.STARTING, Phase.AWAITING_APPROVAL} and resumed.ready_endpoint(rollout.candidate):
        return candidate_ready(resumed, time_s, cause)
    return published(resumed, why, time_s, cause, route_changed=False)


def end_with(state: ModelState, ending: Phase, why: str, time_s: float, cause: str) -> Decision:
    """Send all traffic back to stable; the rollout ends as ``ending`` once the proxies have acknowledged that."""
    rollout = _running(state)
    back = replace(rollout, phase=Phase.ROLLING_BACK, ending=ending, resume_phase=None)
    routed = rerouted(replace(state, rollout=back))
    if routed.route is state.route and routed.route.acknowledged:
        return close(state, ending, why, time_s, cause)
    return published(routed, why, time_s, cause, route_changed=routed.route is not state.route)


def close(state: ModelState, phase: Phase, why: str, time_s: float, cause: str) -> Decision:
    """End the rollout in a terminal phase; the next version that waits begins."""
    if phase not in TERMINAL_PHASES:
        raise ValueError(f"phase is {phase}, expected a terminal one")
    rollout = _running(state)
    ended = replace(state, rollout=replace(rollout, phase=phase, resume_phase=None))
    if phase is Phase.PROMOTED:
        ended = _promoted(ended, rollout)
    elif rollout.stable is None and rollout.phase is Phase.PAUSED and rollout.has_traffic:
        # The only version in service stays in service, until another takes over.
        ended = replace(ended, stable=rollout.candidate)
    routed = rerouted(replace(ended, rollout=None))
    shown = replace(routed, rollout=ended.rollout)
    decision = published(shown, why, time_s, cause, route_changed=routed.route is not state.route)
    closed = replace(decision, state=replace(decision.state, rollout=None))
    return _next_in_queue(closed, time_s, cause)


def _promoted(state: ModelState, rollout: Rollout) -> ModelState:
    retained = [number for number in state.retained if number.major != rollout.candidate.major]
    if rollout.stable is not None and rollout.stable.major != rollout.candidate.major:
        retained = [number for number in retained if number.major != rollout.stable.major]
        retained.append(rollout.stable)
    return replace(
        state,
        stable=rollout.candidate,
        previous_stable=rollout.stable,
        retained=tuple(sorted(retained)),
        breached=tuple(number for number in state.breached if number != rollout.candidate),
    )


def _next_in_queue(decision: Decision, time_s: float, cause: str) -> Decision:
    """Begin with the next version that waits; one that is not above stable any more is dropped."""
    state = decision.state
    waiting = tuple(one for one in state.queue if state.stable is None or one.number > state.stable)
    ready = next((one for one in waiting if state.version(one.number) is not None), None)
    rest = replace(state, queue=tuple(one for one in waiting if one is not ready))
    if ready is None:
        return replace(decision, state=rest)
    return followed(decision, open_rollout(rest, ready, time_s, cause))


def _in_phase(state: ModelState, phase: Phase) -> ModelState:
    return replace(state, rollout=replace(_running(state), phase=phase))


def _running(state: ModelState) -> Rollout:
    if state.rollout is None:
        raise ValueError(f"model {state.model!r} has no rollout that runs")
    return state.rollout
