"""Routes from states: who gets which share, pure. A route never names a version that is not ready."""

from __future__ import annotations

from dataclasses import replace

from tidegate.deployer.state import WEIGHT_TOTAL, Arm, Line, ModelState, Number, Phase, Role, Rollout


def candidate_share(rollout: Rollout) -> float:
    """Return the share that the rollout gives its candidate now, 0 to 1."""
    if not rollout.has_traffic or rollout.phase is Phase.ROLLING_BACK:
        return 0.0
    share = rollout.steps[rollout.step_index]
    if share >= 1.0 and rollout.stable is not None and rollout.stable.major == rollout.candidate.major:
        return 1.0 - rollout.policy.holdback
    return share


def lines_for(state: ModelState) -> tuple[Line, ...]:
    """Return the lines that follow from the state; the one of unversioned requests comes first."""
    main = _main_line(state)
    if main is None:
        # Whatever came first would be the line of unversioned requests.
        return ()
    lines = [main]
    others = {number.major: number for number in state.retained}
    rollout = state.rollout
    # A first version that waits has no line yet: its own would be the one of unversioned requests.
    if rollout is not None and rollout.stable is not None:
        others.setdefault(rollout.stable.major, rollout.stable)
        if rollout.phase is not Phase.ROLLING_BACK:
            others.setdefault(rollout.candidate.major, rollout.candidate)
    taken = {line.major for line in lines}
    lines.extend(
        Line(major=major, arms=(_whole(others[major]),))
        for major in sorted(others)
        if major not in taken and others[major] not in state.breached and _is_answering(state, others[major])
    )
    return tuple(lines)


def _is_answering(state: ModelState, number: Number) -> bool:
    """Say whether ``number`` is ready, or in the route already: a restart of its server does not end its line."""
    return bool(state.ready_endpoint(number)) or bool(dict(state.route.endpoints).get(number))


def _whole(number: Number) -> Arm:
    return Arm(number=number, role=Role.STABLE, weight_millionths=WEIGHT_TOTAL)


def _main_line(state: ModelState) -> Line | None:
    rollout = state.rollout
    share = 0.0 if rollout is None else candidate_share(rollout)
    stable = state.stable if rollout is None else rollout.stable
    if rollout is None or share == 0.0:
        return None if stable is None else Line(major=stable.major, arms=(_whole(stable),))
    same_line = stable is not None and stable.major == rollout.candidate.major
    weight = round(share * WEIGHT_TOTAL)
    candidate = Arm(number=rollout.candidate, role=Role.CANDIDATE, weight_millionths=weight)
    if stable is None or not same_line:
        return Line(major=rollout.candidate.major, arms=(replace(candidate, weight_millionths=WEIGHT_TOTAL),))
    kept = Arm(number=stable, role=Role.STABLE, weight_millionths=WEIGHT_TOTAL - weight)
    return Line(major=rollout.candidate.major, arms=(kept, candidate), fallback=stable)


def rerouted(state: ModelState) -> ModelState:
    """Return the state with the route that follows from it: a new revision if anything changed, else as it was.

    A version keeps its last known endpoint while its server restarts: the proxy falls back or fails fast, and the route
    does not flap.
    """
    lines = lines_for(state)
    named = {arm.number for line in lines for arm in line.arms}
    named |= {line.fallback for line in lines if line.fallback is not None}
    before = dict(state.route.endpoints)
    endpoints = tuple((number, state.ready_endpoint(number) or before.get(number, "")) for number in sorted(named))
    if (lines, endpoints) == (state.route.lines, state.route.endpoints):
        return state
    draining = sorted({*state.route.draining, *state.route.versions()} - named)
    route = replace(
        state.route,
        revision=state.route.revision + 1,
        lines=lines,
        endpoints=endpoints,
        acknowledged=False,
        draining=tuple(draining),
    )
    return replace(state, route=route)
