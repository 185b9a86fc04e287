"""The monitor's own metrics; what a request brings is counted by batch, never by request."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Gauge

from tidegate.core.clock import utc_now
from tidegate.core.metrics import MODEL_LABELS, OTHER, BoundedLabels
from tidegate.monitor.judges.values import ERROR_RATE, LATENCY_MS, Batch, Evidence

# The names of guards come from policies.
GUARDS_MAX: Final = 16

LOG_ENTRIES: Final = Counter(
    "tidegate_monitor_log_entries_total",
    "Entries of the gateways' upstream log: taken, or ignored because they are no prediction that was routed by us.",
    ["result"],
)
LOG_GAP: Final = Counter(
    "tidegate_monitor_log_gap_requests_total", "Requests that were seen and lost on the way: queues were full."
)
BATCHES: Final = Counter("tidegate_monitor_batches_judged_total", "Batches that were weighed for a rollout.")
REQUESTS: Final = Counter(
    "tidegate_monitor_requests_judged_total",
    "Requests that were weighed, by the role that they were assigned to.",
    ["role"],
)
FAILURES: Final = Counter(
    "tidegate_monitor_failures_judged_total", "Those of them that were not answered with 2xx.", ["role"]
)
WATCHED: Final = Gauge("tidegate_monitor_rollouts_watched", "Rollouts that evidence is gathered for.")
PROGRESS: Final = Gauge(
    "tidegate_monitor_guard_progress_ratio",
    "Evidence against a candidate: log e-value / log threshold; 1 = breach, 0 or less = none.",
    ["model", "guard"],
)
LAST_EVIDENCE: Final = Gauge(
    "tidegate_monitor_last_evidence_timestamp_seconds",
    "When a batch with requests of a watched candidate was last weighed (at first: when the watch began).",
    ["model"],
)
FINDINGS: Final = Counter(
    "tidegate_monitor_findings_total", "Findings published: breach, or evidence_reached.", ["finding", "guard"]
)


_GUARD_LABELS: Final = BoundedLabels(GUARDS_MAX)


# A counter that begins at 1 has not increased for Prometheus: what may happen stands there with 0.
for _finding in ("breach", "evidence_reached"):
    for _guard in (ERROR_RATE, LATENCY_MS):
        FINDINGS.labels(_finding, _GUARD_LABELS.of(_guard))


def count_finding(finding: str, guard: str) -> None:
    """Count a finding that was published: ``breach`` or ``evidence_reached``."""
    FINDINGS.labels(finding, _GUARD_LABELS.of(guard)).inc()


def count_batch(batch: Batch) -> None:
    """Count a batch that was weighed."""
    BATCHES.inc()
    for role, arm in (("candidate", batch.candidate), ("stable", batch.stable)):
        REQUESTS.labels(role).inc(arm.requests)
        FAILURES.labels(role).inc(arm.failures)


def progress_ratio(e_value: float, threshold: float) -> float:
    """Return how far evidence has come: 0 = none, 1 = at the threshold; negative while it speaks for the candidate."""
    return math.log(max(e_value, 1e-12)) / math.log(threshold) if threshold > 1 else 0.0


class WatchGauges:
    """Shows the rollouts under watch, by model; what is watched no more is not shown any more."""

    def __init__(self) -> None:
        self._guards: dict[str, set[str]] = {}

    def show(self, model: str, evidence: Iterable[Evidence]) -> None:
        """Show the guards of a watched rollout."""
        label = MODEL_LABELS.of(model)
        if label == OTHER:
            return
        if label not in self._guards:
            LAST_EVIDENCE.labels(label).set(utc_now().timestamp())
        known = self._guards.setdefault(label, set())
        for one in evidence:
            if one.guard not in known and len(known) >= GUARDS_MAX:
                continue
            known.add(one.guard)
            PROGRESS.labels(label, one.guard).set(progress_ratio(one.e_value, one.threshold))

    def seen(self, model: str) -> None:
        """Note that a candidate's requests were weighed just now."""
        if model in self._guards:
            LAST_EVIDENCE.labels(model).set(utc_now().timestamp())

    def keep_only(self, models: Iterable[str], *, rollouts: int) -> None:
        """Forget all other models; ``rollouts`` are watched in all."""
        WATCHED.set(rollouts)
        for gone in self._guards.keys() - set(models):
            LAST_EVIDENCE.remove(gone)
            for guard in self._guards.pop(gone):
                PROGRESS.remove(gone, guard)
