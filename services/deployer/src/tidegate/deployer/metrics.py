"""The deployer's own metrics."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from tidegate.core.metrics import DURATION_BUCKETS_S, MODEL_LABELS, OTHER
from tidegate.deployer.state import TERMINAL_PHASES, WEIGHT_TOTAL, ModelState, Phase, Role
from tidegate.v1.rollout_events_pb2 import RouteApplied

RUNNING_PHASES: Final = sorted(phase.value for phase in Phase if phase not in TERMINAL_PHASES)
ACK_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

ROLLOUTS: Final = Gauge("tidegate_deployer_rollouts", "Rollouts that run, by phase.", ["phase"])
STEPS: Final = Counter(
    "tidegate_deployer_rollout_steps_total",
    "Steps published, by the phase that the rollout is in from then on.",
    ["phase"],
)
DECISIONS: Final = Counter("tidegate_deployer_decisions_total", "Decisions, by what they followed from.", ["event"])
TRANSACTION_SECONDS: Final = Histogram(
    "tidegate_deployer_transaction_seconds",
    "Duration of the Kafka transaction that makes a batch of decisions true.",
    buckets=DURATION_BUCKETS_S,
)
WEIGHT: Final = Gauge(
    "tidegate_deployer_weight_ratio",
    "Share of a model's unversioned traffic that the route in force gives to a role, 0 to 1.",
    ["model", "role"],
)
ROUTE_REVISION: Final = Gauge("tidegate_deployer_route_revision", "Revision of the route that was decided.", ["model"])
ROUTE_ACKNOWLEDGED: Final = Gauge(
    "tidegate_deployer_route_acknowledged_revision", "Newest revision that every leased proxy has.", ["model"]
)
ROUTES_PENDING: Final = Gauge(
    "tidegate_deployer_routes_pending", "Routes that are decided and that not every leased proxy has acknowledged."
)
ROUTE_ACK_SECONDS: Final = Histogram(
    "tidegate_deployer_route_ack_seconds",
    "Time until every leased proxy has a route: after the decision (cause=shift), or after the breach was published"
    " (cause=breach).",
    ["cause"],
    buckets=ACK_BUCKETS_S,
)
PROXIES: Final = Gauge(
    "tidegate_deployer_proxies", "Proxies that hold a lease: connected ones, and those that have gone.", ["state"]
)
REFUSALS: Final = Counter("tidegate_deployer_proxy_refusals_total", "Updates that a proxy refused.")

# What may happen stands there with 0: a counter that begins at 1 has not increased for Prometheus.
for _cause in ("shift", "breach"):
    ROUTE_ACK_SECONDS.labels(_cause)
for _state in ("connected", "missing"):
    PROXIES.labels(_state)
for _phase in RUNNING_PHASES:
    ROLLOUTS.labels(_phase)


class StateGauges:
    """Shows the states of the models that this process decides about."""

    def __init__(self) -> None:
        self._states: dict[str, ModelState] = {}

    def show(self, states: Mapping[str, ModelState]) -> None:
        """Show new states of some models."""
        self._states.update(states)
        for model, state in states.items():
            _show_route(MODEL_LABELS.of(model), state)
        self._count()

    def forget(self, models: Iterable[str]) -> None:
        """Forget models that somebody else decides about now."""
        for model in models:
            if self._states.pop(model, None) is None or (label := MODEL_LABELS.of(model)) == OTHER:
                continue
            for role in Role:
                WEIGHT.remove(label, role.value)
            for gauge in (ROUTE_REVISION, ROUTE_ACKNOWLEDGED):
                gauge.remove(label)
        self._count()

    def _count(self) -> None:
        phases = Tally(state.rollout.phase.value for state in self._states.values() if state.rollout is not None)
        for phase in RUNNING_PHASES:
            ROLLOUTS.labels(phase).set(phases[phase])
        ROUTES_PENDING.set(sum(not state.route.acknowledged for state in self._states.values()))


def _show_route(label: str, state: ModelState) -> None:
    if label == OTHER:
        # Shares of different models add up to nothing.
        return
    weights = dict.fromkeys(Role, 0)
    for arm in (arm for line in state.route.lines[:1] for arm in line.arms):
        weights[arm.role] += arm.weight_millionths
    for role, weight in weights.items():
        WEIGHT.labels(label, role.value).set(weight / WEIGHT_TOTAL)
    ROUTE_REVISION.labels(label).set(state.route.revision)
    if state.route.acknowledged:
        ROUTE_ACKNOWLEDGED.labels(label).set(state.route.revision)


STATE_GAUGES: Final = StateGauges()


class AckTimes:
    """Measures how long routes take to the proxies."""

    def __init__(self) -> None:
        self._breaches: dict[str, tuple[int, int, datetime]] = {}

    def decided(self, model: str, epoch: int, revision: int, breach_time: datetime | None) -> None:
        """Note a new route; ``breach_time`` is when the breach that it follows from was published, if one was."""
        if breach_time is not None:
            self._breaches[model] = (epoch, revision, breach_time)

    def applied(self, report: RouteApplied, now: datetime) -> None:
        """Measure a route that every proxy has."""
        if not report.complete:
            return
        if report.latency_ms:
            # Else nobody has measured it: another process decided, or it is an old decision.
            ROUTE_ACK_SECONDS.labels("shift").observe(report.latency_ms / 1000)
        waiting = self._breaches.get(report.model)
        if waiting is not None and waiting[:2] <= (report.epoch, report.revision):
            ROUTE_ACK_SECONDS.labels("breach").observe(max(0.0, (now - waiting[2]).total_seconds()))
            del self._breaches[report.model]
