"""Faults in the deployer's core."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from tidegate.deployer import candidates, commands, progress, retirement, rollout, routes, waiting
from tidegate.deployer.state import Arm, Decision, ModelState, Phase, Retired, Role
from tidegate.deployer.strategies import canary
from tidegate.simulation.invariants import Invariant
from tidegate.simulation.mutants.mutant import Mutant, Patch


def _rollback_forgets_the_weight() -> list[Patch]:
    real = routes.candidate_share

    def share(one: Any) -> float:
        return one.steps[one.step_index] if one.phase is Phase.ROLLING_BACK else real(one)

    return [(routes, "candidate_share", share)]


def _breach_ignored_after_promotion() -> list[Patch]:
    real = rollout._metric_breached  # noqa: SLF001

    def breached(state: ModelState, event: Any) -> Decision:
        if state.rollout is not None and state.rollout.phase is Phase.SETTLING:
            return progress.ignored(state, "it is settling")
        return real(state, event)

    return [(rollout, "_metric_breached", breached)]


def _breach_applied_twice() -> list[Patch]:
    real = rollout._metric_breached  # noqa: SLF001

    def breached(state: ModelState, event: Any) -> Decision:
        running = state.rollout
        if running is not None and running.rollout_id == event.rollout_id and running.breached_guard:
            return progress.pause(state, "breached again", event.time_s, event.cause)
        return real(state, event)

    return [(rollout, "_metric_breached", breached)]


def _evidence_of_an_old_route() -> list[Patch]:
    real = rollout._evidence_reached  # noqa: SLF001

    def reached(state: ModelState, event: Any) -> Decision:
        return real(state, replace(event, epoch=state.route.epoch, revision=state.route.revision))

    return [(rollout, "_evidence_reached", reached)]


def _server_stopped_before_acknowledgement() -> list[Patch]:
    real = routes.rerouted

    def rerouted(state: ModelState) -> ModelState:
        routed = real(state)
        return routed if routed is state else replace(routed, route=replace(routed.route, draining=()))

    return [(progress, "rerouted", rerouted)]


def _weights_do_not_sum() -> list[Patch]:
    real = routes._main_line  # noqa: SLF001

    def main_line(state: ModelState) -> Any:
        line = real(state)
        if line is None or len(line.arms) == 1:
            return line
        return replace(line, arms=tuple(_lighter(arm) if arm.role is Role.STABLE else arm for arm in line.arms))

    return [(routes, "_main_line", main_line)]


def _lighter(arm: Arm) -> Arm:
    return replace(arm, weight_millionths=max(0, arm.weight_millionths - 1))


def _nobody_is_asked() -> list[Patch]:
    def ready(state: ModelState, time_s: float, cause: str) -> Decision:
        return progress.enter_step(state, 0, "it is ready", time_s, cause)

    return [(progress, "candidate_ready", ready)]


def _resumed_after_a_breach() -> list[Patch]:
    def resume(state: ModelState, running: Any, event: Any) -> Decision:
        if running.phase is not Phase.PAUSED:
            return progress.ignored(state, "it is not paused")
        return progress.resume(state, "resumed", event.time_s, event.cause)

    return [(commands, "_resume", resume)]


def _lower_version_starts() -> list[Patch]:
    real = candidates._refusal  # noqa: SLF001

    def refusal(state: ModelState, blessed: Any) -> str:
        told = real(state, blessed)
        return "" if "lower versions" in told and blessed.number != state.stable else told

    return [(candidates, "_refusal", refusal)]


def _ends_twice() -> list[Patch]:
    real = progress.close

    def close(state: ModelState, phase: Phase, why: str, time_s: float, cause: str) -> Decision:
        decision = real(state, phase, why, time_s, cause)
        if phase is Phase.PROMOTED and decision.steps and decision.state.rollout is None:
            again = replace(decision.steps[0], sequence=decision.state.sequence + 1)
            state = replace(decision.state, sequence=again.sequence)
            return replace(decision, state=state, steps=(*decision.steps, again))
        return decision

    return [(progress, "close", close)]


def _bake_time_ignored() -> list[Patch]:
    def is_earned(one: Any, now_s: float) -> bool:
        return one.step_acknowledged_s is not None and bool(one.evidence) and now_s > 0.0

    return [(canary, "is_step_earned", is_earned)]


def _step_before_acknowledgement() -> list[Patch]:
    def is_earned(one: Any, now_s: float) -> bool:
        return bool(one.evidence) and now_s - (one.step_acknowledged_s or 0.0) >= one.bake_s

    return [(canary, "is_step_earned", is_earned)]


def _takeover_keeps_the_epoch() -> list[Patch]:
    def taken_over(state: ModelState, event: Any) -> Decision:
        return progress.published(state, "took over", event.time_s, event.cause, route_changed=bool(state.route.lines))

    return [(rollout, "_taken_over", taken_over)]


def _unready_server_named() -> list[Patch]:
    def endpoint(state: ModelState, number: Any) -> str:
        return next((one.endpoint for one in state.servers if one.number == number), "")

    return [(ModelState, "ready_endpoint", endpoint)]


def _pause_does_nothing() -> list[Patch]:
    def pause(state: ModelState, _running: Any, _event: Any) -> Decision:
        return progress.ignored(state, "not now")

    return [(commands, "_pause", pause)]


def _command_applied_twice() -> list[Patch]:
    real = commands.command_given

    def command_given(state: ModelState, event: Any) -> Decision:
        forgotten = tuple(one for one in state.request_ids if one != event.request_id)
        return real(replace(state, request_ids=forgotten), event)

    return [(rollout, "command_given", command_given)]


def _moved_server_not_followed() -> list[Patch]:
    def stay(state: ModelState, reason: str, _time_s: float, _cause: str) -> Decision:
        return Decision(state=state, reason=reason)

    return [(progress, "follow_route", stay)]


def _rollback_window_ignored() -> list[Patch]:
    real = rollout._settled  # noqa: SLF001

    def settled(state: ModelState, event: Any) -> Decision | None:
        return real(state, replace(event, time_s=event.time_s + 1e6))

    return [(rollout, "_settled", settled)]


def _full_host_ends_it() -> list[Patch]:
    def changed(state: ModelState, event: Any) -> Decision:
        if not event.waiting or state.rollout is None or state.rollout.phase is not Phase.STARTING:
            return progress.follow_route(state, "not ready", event.time_s, event.cause)
        return progress.end_with(state, Phase.ABORTED, event.waiting, event.time_s, event.cause)

    return [(waiting, "changed", changed)]


def _retired_model_serves_on() -> list[Patch]:
    def retire_model(state: ModelState, event: Any) -> Decision:
        kept = replace(state, retired=Retired(stable=state.stable, retained=state.retained))
        return retirement._told(Decision(state=kept), event, "retired")  # noqa: SLF001

    return [(retirement, "_retire_model", retire_model)]


MUTANTS: Final = (
    Mutant(
        name="rollback-forgets-the-weight",
        promise="a breach sends all traffic back",
        patches=_rollback_forgets_the_weight,
        found_by=(Invariant.NO_MORE_AFTER_A_BREACH, Invariant.BREACH_SENDS_BACK),
        seed=4,
    ),
    Mutant(
        name="breach-ignored-after-promotion",
        promise="a late breach still rolls back",
        patches=_breach_ignored_after_promotion,
        found_by=(Invariant.BREACH_SENDS_BACK, Invariant.BREACH_STOPS),
        seed=4,
    ),
    Mutant(
        name="breach-applied-twice",
        promise="a breach counts once",
        patches=_breach_applied_twice,
        found_by=(Invariant.BREACH_COUNTS_ONCE,),
        seed=62,
    ),
    Mutant(
        name="evidence-of-an-old-route",
        promise="evidence belongs to its route",
        patches=_evidence_of_an_old_route,
        found_by=(Invariant.STEPS_ARE_EARNED,),
        seed=53,
    ),
    Mutant(
        name="server-stopped-early",
        promise="a server outlives its last acknowledgement",
        patches=_server_stopped_before_acknowledgement,
        found_by=(Invariant.NO_REQUEST_FAILS,),
        seed=516,
    ),
    Mutant(
        name="weights-do-not-sum",
        promise="weights sum to the total",
        patches=_weights_do_not_sum,
        found_by=(Invariant.WEIGHTS_SUM_UP,),
    ),
    Mutant(
        name="nobody-is-asked",
        promise="no unapproved version goes live",
        patches=_nobody_is_asked,
        found_by=(Invariant.NOTHING_WITHOUT_APPROVAL,),
    ),
    Mutant(
        name="resumed-after-a-breach",
        promise="a breached rollout never gets more traffic",
        patches=_resumed_after_a_breach,
        found_by=(Invariant.NO_MORE_AFTER_A_BREACH, Invariant.STEPS_ARE_EARNED),
        seed=121,
    ),
    Mutant(
        name="silent-monitor-ignored",
        promise="silence is not no traffic",
        patches=lambda: [(rollout, "_without_monitor", lambda _state, _event: None)],
        found_by=(Invariant.SILENCE_IS_NOT_NO_TRAFFIC,),
        seed=5,
    ),
    Mutant(
        name="held-for-ever",
        promise="a silence beyond the limit rolls back",
        patches=lambda: [(rollout, "HOLD_LONGEST_S", 1e9)],
        found_by=(Invariant.SILENCE_ENDS_IT,),
        seed=15,
    ),
    Mutant(
        name="rollback-window-ignored",
        promise="a promotion waits for its rollback window",
        patches=_rollback_window_ignored,
        found_by=(Invariant.SETTLES_FIRST,),
    ),
    Mutant(
        name="lower-version-starts",
        promise="lower versions never start by themselves",
        patches=_lower_version_starts,
        found_by=(Invariant.NO_LOWER_VERSION,),
        seed=75,
    ),
    Mutant(
        name="ends-twice",
        promise="a rollout ends once",
        patches=_ends_twice,
        found_by=(Invariant.ENDS_ONCE,),
    ),
    Mutant(
        name="full-host-ends-it",
        promise="a rollout waits for a free server",
        patches=_full_host_ends_it,
        found_by=(Invariant.WAITING_IS_NO_END,),
        seed=31,
    ),
    Mutant(
        name="retired-model-serves-on",
        promise="what is retired gets no request",
        patches=_retired_model_serves_on,
        found_by=(Invariant.RETIRED_GETS_NOTHING,),
        seed=44,
    ),
    Mutant(
        name="bake-time-ignored",
        promise="each step is baked",
        patches=_bake_time_ignored,
        found_by=(Invariant.STEPS_ARE_BAKED,),
        seed=3,
    ),
    Mutant(
        name="step-before-acknowledgement",
        promise="each step waits for the proxies",
        patches=_step_before_acknowledgement,
        found_by=(Invariant.STEPS_WAIT_FOR_PROXIES,),
        seed=67,
    ),
    Mutant(
        name="takeover-keeps-the-epoch",
        promise="routes only go forward",
        patches=_takeover_keeps_the_epoch,
        found_by=(Invariant.ROUTES_GO_FORWARD,),
    ),
    Mutant(
        name="unready-server-named",
        promise="a route names only ready versions",
        patches=_unready_server_named,
        found_by=(Invariant.ONLY_READY_VERSIONS,),
        seed=1,
    ),
    Mutant(
        name="moved-server-not-followed",
        promise="a route follows a server that moves",
        patches=_moved_server_not_followed,
        found_by=(Invariant.ARMS_ARE_ANSWERED, Invariant.NO_REQUEST_FAILS),
        seed=15,
    ),
    Mutant(
        name="pause-does-nothing",
        promise="an acknowledged command has its effect",
        patches=_pause_does_nothing,
        found_by=(Invariant.COMMANDS_WORK,),
        seed=4,
    ),
    Mutant(
        name="command-applied-twice",
        promise="a command has its effect once",
        patches=_command_applied_twice,
        found_by=(Invariant.COMMANDS_COUNT_ONCE,),
        seed=32,
    ),
)
