"""The rollout core: ``decide(state, event)`` is total and pure. Each event has one small handler; none reaches outside.

What must hold whatever comes: weights sum to the total and name only ready, blessed versions; after a breach the
candidate of that rollout never gets more traffic; every rollout ends in one terminal phase; no evidence never counts
as good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, assert_never

from tidegate.deployer import candidates, progress, waiting
from tidegate.deployer.commands import command_given
from tidegate.deployer.events import (
    CommandGiven,
    Event,
    EvidenceReached,
    HeartbeatSeen,
    MetricBreached,
    RouteAcknowledged,
    RouteRefused,
    ServerChanged,
    TakenOver,
    Ticked,
    VersionApproved,
    VersionBlessed,
    VersionRegistered,
)
from tidegate.deployer.progress import ignored
from tidegate.deployer.state import (
    Decision,
    ModelState,
    Phase,
    Rollout,
    ServerStatus,
)
from tidegate.deployer.strategies import canary

HEARTBEAT_LONGEST_S: Final = 30.0
HOLD_LONGEST_S: Final = 600.0


def decide(state: ModelState, event: Event) -> Decision:
    """Return what follows when ``event`` reaches ``state``; the same arguments always give the same."""
    decision = _decide(state, event)
    # A server that nobody wants any more is stopped without a word: what was heard of it is no longer true.
    wanted = decision.state.wanted_servers()
    heard = tuple(server for server in decision.state.servers if server.number in wanted)
    if heard == decision.state.servers:
        return decision
    return replace(decision, state=replace(decision.state, servers=heard))


def _decide(state: ModelState, event: Event) -> Decision:  # noqa: C901, PLR0911, PLR0912  (one line an event)
    match event:
        case VersionRegistered():
            return candidates.version_registered(state, event)
        case VersionBlessed():
            return candidates.version_blessed(state, event)
        case VersionApproved():
            return candidates.version_approved(state, event)
        case ServerChanged():
            return _server_changed(state, event)
        case RouteAcknowledged():
            return _route_acknowledged(state, event)
        case RouteRefused():
            return _route_refused(state, event)
        case EvidenceReached():
            return _evidence_reached(state, event)
        case MetricBreached():
            return _metric_breached(state, event)
        case HeartbeatSeen():
            return _heartbeat_seen(state, event)
        case CommandGiven():
            return command_given(state, event)
        case TakenOver():
            return _taken_over(state, event)
        case Ticked():
            return _ticked(state, event)
        case _:
            assert_never(event)


def _server_changed(state: ModelState, event: ServerChanged) -> Decision:
    others = tuple(server for server in state.servers if server.number != event.number)
    status = ServerStatus(number=event.number, endpoint=event.endpoint, ready=event.ready)
    seen = replace(state, servers=tuple(sorted((*others, status), key=lambda server: server.number)))
    rollout = seen.rollout
    if rollout is not None and rollout.candidate == event.number and waiting.is_before_its_server(rollout):
        if not event.ready and not event.failure:
            return waiting.changed(seen, event)
        seen = waiting.ended(seen, event.time_s)
        if rollout.phase is Phase.STARTING:
            return _candidate_started(seen, event)
    how = "ready" if event.ready else event.failure or "not ready"
    return progress.follow_route(seen, f"the server of {event.number} is {how}", event.time_s, event.cause)


def _candidate_started(seen: ModelState, event: ServerChanged) -> Decision:
    if event.ready:
        return progress.candidate_ready(seen, event.time_s, event.cause)
    why = f"the server of {event.number} did not start: {event.failure}"
    return progress.end_with(seen, Phase.ABORTED, why, event.time_s, event.cause)


def _route_acknowledged(state: ModelState, event: RouteAcknowledged) -> Decision:
    route = state.route
    if (event.epoch, event.revision) != (route.epoch, route.revision):
        return ignored(state, f"route {event.epoch}.{event.revision} is not the one in force")
    acknowledged = replace(state, route=replace(route, acknowledged=True, draining=()))
    rollout = state.rollout
    if rollout is None:
        return Decision(state=acknowledged, reason="the route is acknowledged")
    if rollout.phase is Phase.ROLLING_BACK and rollout.ending is not None:
        why = f"the proxies have sent all traffic back since route {event.epoch}.{event.revision}"
        return progress.close(acknowledged, rollout.ending, why, event.time_s, event.cause)
    if rollout.step_acknowledged_s is not None:
        return Decision(state=acknowledged, reason="the route is acknowledged")
    stamped = replace(rollout, step_acknowledged_s=event.time_s, heartbeat_s=event.time_s)
    return Decision(state=replace(acknowledged, rollout=stamped), reason="the step's route is acknowledged")


def _route_refused(state: ModelState, event: RouteRefused) -> Decision:
    if (event.epoch, event.revision) != (state.route.epoch, state.route.revision):
        return ignored(state, f"route {event.epoch}.{event.revision} is not the one in force")
    rollout = state.rollout
    if rollout is None or rollout.phase is Phase.ROLLING_BACK:
        # There is no other route to go to; the proxies keep the one that they have.
        return ignored(state, f"a proxy refused the only route that is left: {event.message}")
    ending = Phase.ROLLED_BACK if rollout.stable is not None and rollout.has_traffic else Phase.ABORTED
    why = f"a proxy refused route {event.epoch}.{event.revision}: {event.message}"
    return progress.end_with(state, ending, why, event.time_s, event.cause)


def _evidence_reached(state: ModelState, event: EvidenceReached) -> Decision:
    rollout = state.rollout
    if rollout is None or rollout.rollout_id != event.rollout_id:
        return ignored(state, f"{event.rollout_id} does not run")
    if (event.epoch, event.revision) != (state.route.epoch, state.route.revision):
        return ignored(state, f"the evidence is of route {event.epoch}.{event.revision}, which is not in force")
    evident = replace(state, rollout=replace(rollout, evidence=(event.evidence,)))
    return _next_step_if_earned(evident, event.time_s, event.cause, "evidence reached, the step is still baking")


def _next_step_if_earned(state: ModelState, time_s: float, cause: str, otherwise: str) -> Decision:
    rollout = state.rollout
    if rollout is None or rollout.phase is not Phase.STEPPING or not canary.is_step_earned(rollout, time_s):
        return Decision(state=state, reason=otherwise)
    if not state.ready_endpoint(rollout.candidate):
        return Decision(state=state, reason=f"the step is earned, and waits for the server of {rollout.candidate}")
    why = f"step {rollout.step_index + 1} of {len(rollout.steps)} earned: {_told(rollout)}"
    return progress.enter_step(state, rollout.step_index + 1, why, time_s, cause)


def _told(rollout: Rollout) -> str:
    return "; ".join(
        f"{item.guard} evidence {item.e_value:.3g} of {item.threshold:.3g} wanted, "
        f"candidate {item.candidate_estimate:.4g} over {item.candidate_count} requests, "
        f"stable {item.stable_estimate:.4g} over {item.stable_count}"
        for item in rollout.evidence
    )


def _metric_breached(state: ModelState, event: MetricBreached) -> Decision:
    rollout = state.rollout
    if rollout is None or rollout.rollout_id != event.rollout_id:
        return ignored(state, f"{event.rollout_id} does not run")
    if rollout.phase is Phase.ROLLING_BACK or rollout.breached_guard:
        return ignored(state, f"{event.rollout_id} has breached {rollout.breached_guard or 'before'}")
    breached = replace(rollout, breached_guard=event.guard, evidence=(event.evidence,))
    marked = replace(state, rollout=breached, breached=tuple(sorted({*state.breached, rollout.candidate})))
    why = f"{event.guard} breached: {_told(breached)}"
    if rollout.stable is None:
        return _frozen_alone(marked, why, event)
    if rollout.policy.on_breach == "freeze":
        return progress.pause(marked, f"{why}; the policy says freeze", event.time_s, event.cause)
    return progress.end_with(marked, Phase.ROLLED_BACK, why, event.time_s, event.cause)


def _frozen_alone(state: ModelState, why: str, event: MetricBreached) -> Decision:
    frozen = progress.pause(state, f"{why}; there is no version to fall back to", event.time_s, event.cause)
    rollout = frozen.state.rollout
    newer = (one for one in state.queue if rollout is not None and one.number > rollout.candidate)
    if not any(state.version(one.number) is not None for one in newer):
        return frozen
    return progress.followed(frozen, candidates.give_way(frozen.state, event.time_s, event.cause))


def _heartbeat_seen(state: ModelState, event: HeartbeatSeen) -> Decision:
    rollout = state.rollout
    if rollout is None or rollout.rollout_id != event.rollout_id:
        return ignored(state, f"{event.rollout_id} does not run")
    watched = replace(state, rollout=replace(rollout, heartbeat_s=max(event.time_s, rollout.heartbeat_s)))
    if rollout.phase is not Phase.HOLDING:
        return Decision(state=watched, reason="the monitor watches")
    return progress.resume(watched, "the monitor watches again", event.time_s, event.cause)


def _taken_over(state: ModelState, event: TakenOver) -> Decision:
    if not state.route.lines and state.route.acknowledged:
        route = replace(state.route, epoch=state.route.epoch + 1, revision=0)
        return Decision(state=replace(state, route=route), reason="a new epoch begins")
    route = replace(state.route, epoch=state.route.epoch + 1, revision=1, acknowledged=False)
    renewed = replace(state, route=route)
    if renewed.rollout is not None:
        # Evidence and bake time belong to a route; this one is new.
        fresh = replace(renewed.rollout, step_acknowledged_s=None, evidence=(), heartbeat_s=event.time_s)
        renewed = replace(renewed, rollout=fresh)
    return progress.published(renewed, "the deployer took over", event.time_s, event.cause, route_changed=True)


def _ticked(state: ModelState, event: Ticked) -> Decision:
    for rule in (_past_deadline, _without_monitor, _settled):
        decision = rule(state, event)
        if decision is not None:
            return decision
    return _next_step_if_earned(state, event.time_s, event.cause, "nothing is due")


_Rule = Callable[[ModelState, Ticked], Decision | None]


def _past_deadline(state: ModelState, event: Ticked) -> Decision | None:
    rollout = state.rollout
    if rollout is None:
        return None
    # While there is no room for its server it can do nothing: that is not held against it.
    own_s = event.time_s - rollout.began_s - waiting.waited_s(rollout, event.time_s)
    if own_s < rollout.policy.deadline_s:
        return None
    if (rollout.resume_phase or rollout.phase) in {Phase.SETTLING, Phase.ROLLING_BACK}:
        # It has come to its end in time; a pause or a silent monitor does not take that back.
        return None
    if rollout.has_traffic and rollout.stable is None:
        # The only version stays in service: there is nothing to go back to.
        return None
    why = f"the rollout is past its deadline of {rollout.policy.deadline_s:g} s"
    ending = Phase.ROLLED_BACK if rollout.has_traffic else Phase.ABORTED
    return progress.end_with(state, ending, why, event.time_s, event.cause)


def _without_monitor(state: ModelState, event: Ticked) -> Decision | None:
    rollout = state.rollout
    if rollout is None or rollout.step_acknowledged_s is None:
        return None
    silence_s = event.time_s - max(rollout.heartbeat_s, rollout.step_acknowledged_s)
    if rollout.phase is Phase.HOLDING and silence_s >= HOLD_LONGEST_S and rollout.stable is not None:
        why = f"no heartbeat of the monitor for {silence_s:.0f} s"
        return progress.end_with(state, Phase.ROLLED_BACK, why, event.time_s, event.cause)
    if rollout.phase in {Phase.STEPPING, Phase.SETTLING} and silence_s >= HEARTBEAT_LONGEST_S:
        return progress.hold(state, f"no heartbeat of the monitor for {silence_s:.0f} s", event.time_s, event.cause)
    return None


def _settled(state: ModelState, event: Ticked) -> Decision | None:
    rollout = state.rollout
    if rollout is None or rollout.phase is not Phase.SETTLING or rollout.step_acknowledged_s is None:
        return None
    if event.time_s - rollout.step_acknowledged_s < rollout.policy.settle_s:
        return None
    if not state.ready_endpoint(rollout.candidate):
        # Its server restarts; while it does, stable answers, which would be stopped.
        return None
    why = f"no breach within the rollback window of {rollout.policy.settle_s:g} s"
    return progress.close(state, Phase.PROMOTED, why, event.time_s, event.cause)
