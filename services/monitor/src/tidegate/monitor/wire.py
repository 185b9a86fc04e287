"""Between the contract's messages and the values of the core."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from tidegate.contracts.codec import Event
from tidegate.contracts.names import format_version, parse_version
from tidegate.core.policy import default_policy
from tidegate.monitor.batches import STATUS_CLIENT_CLOSED, Slice
from tidegate.monitor.judges.values import CLIENT_ERRORS, ArmBatch, Batch, Evidence, Finding, Guard, Kind, Rules
from tidegate.monitor.rollouts import Route, RouteFacts, StepFacts
from tidegate.v1 import monitoring_events_pb2 as monitoring
from tidegate.v1 import rollout_events_pb2 as rollouts
from tidegate.v1.policy_pb2 import GuardPolicy

TERMINAL_PHASES: Final = frozenset(
    {rollouts.PHASE_PROMOTED, rollouts.PHASE_ROLLED_BACK, rollouts.PHASE_ABORTED, rollouts.PHASE_SUPERSEDED}
)
DORMANT_PHASES: Final = frozenset({rollouts.PHASE_UNSPECIFIED, rollouts.PHASE_PENDING})
US_PER_S: Final = 1_000_000
CLIENT_ERROR_FIRST: Final = 400

_KINDS: Final = {
    Kind.CONCURRENT: monitoring.EVIDENCE_KIND_CONCURRENT,
    Kind.ABSOLUTE: monitoring.EVIDENCE_KIND_ABSOLUTE,
}


def to_microseconds(time: Timestamp) -> int:
    """Return ``time`` in microseconds since the epoch."""
    return time.seconds * US_PER_S + time.nanos // 1000


def to_timestamp(microseconds: int) -> Timestamp:
    """Return the timestamp of ``microseconds`` since the epoch."""
    seconds, rest = divmod(microseconds, US_PER_S)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def from_datetime(time: datetime) -> Timestamp:
    """Return the timestamp of an aware time."""
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def step_facts(event: Event, message: rollouts.RolloutStep, *, step_requests_min: int) -> StepFacts:
    """Return what the monitor needs of a RolloutStep."""
    weights = {format_version(arm.version): arm.weight_millionths for arm in message.arms}
    candidate = format_version(message.candidate)
    stable = format_version(message.stable) if message.HasField("stable") else ""
    return StepFacts(
        rollout_id=message.rollout_id,
        model=message.model,
        sequence=message.sequence,
        correlation_id=event.correlation_id,
        candidate=candidate,
        stable=stable,
        phase=rollouts.Phase.Name(message.phase),
        dormant=message.phase in DORMANT_PHASES,
        terminal=message.phase in TERMINAL_PHASES,
        route=RouteFacts(
            route=(message.route_epoch, message.route_revision),
            concurrent=weights.get(stable, 0) > 0,
            weight_millionths=weights.get(candidate, 0),
        ),
        rules=rules_of(message.guards, message.model, step_requests_min=step_requests_min),
    )


def rules_of(policy: GuardPolicy, model: str, *, step_requests_min: int) -> Rules:
    """Return the rules of a guard policy; an empty one means the built-in default."""
    chosen = policy if policy.items else default_policy(model).guards
    # A step without guards is of an early release, whose default had no such guard.
    items = [guard for guard in chosen.items if policy.items or guard.metric != CLIENT_ERRORS]
    guards = tuple(
        Guard(
            metric=guard.metric,
            margin=guard.margin,
            floor=guard.floor,
            quantile=guard.quantile or Guard(metric="").quantile,
            ratio=guard.ratio,
            ceiling=guard.ceiling,
        )
        for guard in items
    )
    return Rules(guards=guards, alpha=chosen.alpha or Rules(guards=()).alpha, step_requests_min=step_requests_min)


def to_batch_message(part: Slice) -> monitoring.PredictionBatch:
    """Return ``part`` in packed columns."""
    rows = part.rows
    columns = monitoring.PredictionColumns(
        prediction_id=[row.request_id for row in rows],
        assigned_arm=[row.assigned_arm for row in rows],
        served_arm=[row.served_arm for row in rows],
        attempts=[row.attempts for row in rows],
        status_code=[row.status for row in rows],
        latency_us=[row.latency_us for row in rows],
        unit_hash=[row.unit_hash for row in rows],
    )
    return monitoring.PredictionBatch(
        model=part.key.model,
        node_id=part.key.node_id,
        route_epoch=part.key.epoch,
        route_revision=part.key.revision,
        start_time=to_timestamp(min(row.start_us for row in rows)) if rows else None,
        end_time=to_timestamp(max(row.start_us for row in rows)) if rows else None,
        columns=columns,
        dropped_count=part.dropped,
    )


def route_of(message: monitoring.PredictionBatch) -> Route:
    """Return the route that ``message`` names."""
    return (message.route_epoch, message.route_revision)


def to_batch(
    event: Event, message: monitoring.PredictionBatch, *, candidate: str, stable: str, concurrent: bool
) -> Batch:
    """Return ``message`` as one comparison of ``candidate`` and ``stable``."""
    columns = message.columns
    arms = np.array(columns.assigned_arm, dtype=object)
    status = np.array(columns.status_code, dtype=np.int64)
    latency_us = np.array(columns.latency_us, dtype=np.uint64)
    # A batch of a release that did not write units has none.
    units = np.array(columns.unit_hash or np.zeros(len(status)), dtype=np.uint64)
    start_us = to_microseconds(message.start_time)
    return Batch(
        route=route_of(message),
        start_us=start_us,
        end_us=to_microseconds(message.end_time),
        partition=event.partition,
        offset=event.offset,
        concurrent=concurrent,
        candidate=_arm(arms == candidate, status, latency_us, units, start_us),
        stable=_arm(arms == stable, status, latency_us, units, start_us),
    )


def _arm(
    mine: NDArray[np.bool_],
    status: NDArray[np.int64],
    latency_us: NDArray[np.uint64],
    units: NDArray[np.uint64],
    start_us: int,
) -> ArmBatch:
    codes = status[mine]
    success = (codes >= 200) & (codes < 300)
    failures = int(np.count_nonzero(~success))
    return ArmBatch(
        requests=len(codes),
        failures=failures,
        broken=int(np.count_nonzero((codes == 0) | (codes >= 500))),
        latencies_us=latency_us[mine][success],
        first_failure_us=start_us if failures else 0,
        units=units[mine],
        client_errors=(codes >= CLIENT_ERROR_FIRST) & (codes < STATUS_CLIENT_CLOSED),
    )


def to_evidence(known: Evidence) -> rollouts.Evidence:
    """Return ``known`` as a message."""
    return rollouts.Evidence(
        guard=known.guard,
        e_value=known.e_value,
        threshold=known.threshold,
        candidate_estimate=known.candidate_estimate,
        stable_estimate=known.stable_estimate,
        candidate_count=known.candidate_count,
        stable_count=known.stable_count,
    )


def to_breach(finding: Finding, *, rollout_id: str, model: str, candidate: str) -> monitoring.MetricBreach:
    """Return a breach as a message."""
    return monitoring.MetricBreach(
        rollout_id=rollout_id,
        model=model,
        version=parse_version(candidate),
        guard=finding.evidence.guard,
        kind=_KINDS[finding.evidence.kind],
        evidence=to_evidence(finding.evidence),
        inputs_json=finding.inputs_json,
        first_evidence_time=to_timestamp(finding.first_evidence_us),
    )


def to_evidence_reached(finding: Finding, *, rollout_id: str, model: str, candidate: str) -> monitoring.EvidenceReached:
    """Return evidence reached as a message."""
    epoch, revision = finding.route
    return monitoring.EvidenceReached(
        rollout_id=rollout_id,
        model=model,
        version=parse_version(candidate),
        guard=finding.evidence.guard,
        kind=_KINDS[finding.evidence.kind],
        evidence=to_evidence(finding.evidence),
        inputs_json=finding.inputs_json,
        first_evidence_time=to_timestamp(finding.first_evidence_us),
        route_epoch=epoch,
        route_revision=revision,
    )
