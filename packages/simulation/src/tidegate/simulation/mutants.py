"""Planted faults: each takes one promise away, from a real core or from a modelled shell; the checker must notice each.

A mutant that survives means that an invariant or a fault is missing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

from tidegate.deployer import candidates, commands, progress, rollout, routes
from tidegate.deployer.state import Arm, Decision, ModelState, Phase, Role
from tidegate.deployer.strategies import canary
from tidegate.modelhost import lifecycle
from tidegate.monitor import batches
from tidegate.monitor.judges import judge
from tidegate.registry import versioning
from tidegate.simulation.bus import Bus
from tidegate.simulation.monitor import Monitor
from tidegate.simulation.registry import Registry
from tidegate.simulation.worker import Habits
from tidegate.validator.verdict import Verdict

Patch = tuple[Any, str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """A planted fault; ``patches`` gives (object, attribute, replacement), ``seed`` is one that finds it (today)."""

    name: str
    promise: str
    patches: Callable[[], list[Patch]]
    seed: int = 0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Plant it for a while, in this process."""
        with ExitStack() as stack:
            for target, name, value in self.patches():
                stack.enter_context(patch.object(target, name, value))
            yield


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


def _twin_gets_a_number() -> list[Patch]:
    real = versioning.decide
    return [(versioning, "decide", lambda given: real(replace(given, twin=None)))]


def _fallback_counts() -> list[Patch]:
    real = batches._merge  # noqa: SLF001

    def merge(row: Any, attempt: Any) -> None:
        real(row, attempt)
        if not attempt.is_own():
            row.status = attempt.status

    return [(batches, "_merge", merge)]


def _promotes_without_evidence() -> list[Patch]:
    real = judge._reached  # noqa: SLF001

    def reached(state: Any, batch: Any) -> Any:
        rules = replace(state.rules, alpha=1e9)
        guards = tuple(replace(one, promotion=None) for one in state.guards)
        return real(replace(state, rules=rules, guards=guards), batch)

    return [(judge, "_reached", reached)]


def _host_ends_what_it_finds() -> list[Patch]:
    return [(lifecycle, "_adopt", lambda server, _event: lifecycle._stop(server))]  # noqa: SLF001


def _failures_do_not_count() -> list[Patch]:
    return [(Verdict, "is_blessed", property(lambda _verdict: True))]


def _outbox_row_lost() -> list[Patch]:
    real = Registry.on_start

    def start(registry: Registry) -> None:
        registry.is_marking_early = True
        real(registry)

    return [(Registry, "on_start", start)]


def _batch_counts_twice() -> list[Patch]:
    return [(Monitor, "_has_counted", lambda _monitor, _state, _event: False)]


def _habit(name: str) -> Callable[[], list[Patch]]:
    def patches() -> list[Patch]:
        real = Habits.__init__

        def init(habits: Habits, **given: bool) -> None:
            real(habits, **given)
            setattr(habits, name, False)

        return [(Habits, "__init__", init)]

    return patches


# Where the first seeds do not find it; only to save time.
_SEEDS: Final = {
    "server-stopped-early": 144,
    "resumed-after-a-breach": 75,
    "silent-monitor-ignored": 37,
    "lower-version-starts": 291,
    "outbox-row-lost": 37,
    "fence-ignored": 23,
    "zombie-acts": 87,
}

MUTANTS: Final = tuple(
    Mutant(name=name, promise=promise, patches=patches, seed=_SEEDS.get(name, 0))
    for name, promise, patches in (
        ("rollback-forgets-the-weight", "a breach sends all traffic back", _rollback_forgets_the_weight),
        ("breach-ignored-after-promotion", "a late breach still rolls back", _breach_ignored_after_promotion),
        ("breach-applied-twice", "a breach counts once", _breach_applied_twice),
        ("evidence-of-an-old-route", "evidence belongs to its route", _evidence_of_an_old_route),
        ("server-stopped-early", "a server outlives its last acknowledgement", _server_stopped_before_acknowledgement),
        ("weights-do-not-sum", "weights sum to the total", _weights_do_not_sum),
        ("nobody-is-asked", "no unapproved version goes live", _nobody_is_asked),
        ("resumed-after-a-breach", "a breached rollout never gets more traffic", _resumed_after_a_breach),
        (
            "silent-monitor-ignored",
            "silence is not no traffic",
            lambda: [(rollout, "_without_monitor", lambda _state, _event: None)],
        ),
        ("lower-version-starts", "lower versions never start by themselves", _lower_version_starts),
        ("ends-twice", "a rollout ends once", _ends_twice),
        ("bake-time-ignored", "each step is baked", _bake_time_ignored),
        ("step-before-acknowledgement", "each step waits for the proxies", _step_before_acknowledgement),
        ("takeover-keeps-the-epoch", "routes only go forward", _takeover_keeps_the_epoch),
        ("unready-server-named", "a route names only ready versions", _unready_server_named),
        ("twin-gets-a-number", "the same training has one number", _twin_gets_a_number),
        ("fallback-counts-for-the-candidate", "evidence is counted by assignment", _fallback_counts),
        ("promotes-without-evidence", "no evidence is unknown", _promotes_without_evidence),
        ("host-ends-what-it-finds", "model servers outlive their host", _host_ends_what_it_finds),
        ("failures-do-not-count", "only blessed versions are delivered", _failures_do_not_count),
        ("outbox-row-lost", "an acknowledged registration keeps its event", _outbox_row_lost),
        (
            "training-decided-twice",
            "a training event counts once",
            lambda: [(Registry, "was_consumed", lambda _registry, _id: False)],
        ),
        ("batch-counts-twice", "each batch counts once", _batch_counts_twice),
        ("fence-ignored", "one owner decides", lambda: [(Bus, "check_epoch", lambda _bus, _id, _epoch: None)]),
        ("offsets-without-state", "state and offsets are committed together", _habit("commits_state")),
        ("state-without-offsets", "state and offsets are committed together", _habit("commits_offsets")),
        ("effects-not-repeated", "a committed effect survives a crash", _habit("carries_out_again")),
        ("effects-before-commit", "only what is committed has an effect", _habit("acts_on_committed")),
        ("zombie-acts", "who can't prove its ownership does nothing", _habit("proves_ownership")),
        ("leases-forgotten", "a restarted deployer waits for the proxies of the last one", _habit("restores_leases")),
        ("first-acknowledgement-counts", "a shift waits for all leased proxies", _habit("waits_for_all_proxies")),
    )
)
