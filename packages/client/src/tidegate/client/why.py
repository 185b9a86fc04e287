"""Why a version is where it is: the reasons that its events carry, in order. Pure: events in, lines out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tidegate.contracts.codec import Event
from tidegate.contracts.names import format_version
from tidegate.v1.events_pb2 import (
    AliasMoved,
    Check,
    ModelBlessed,
    ModelRegistered,
    RegistrationDuplicate,
    RegistrationRejected,
    TrainingCompleted,
    ValidationFailed,
    ValidationPassed,
    VersionApproved,
    VersionRejected,
)
from tidegate.v1.monitoring_events_pb2 import DriftDetected, EvidenceReached, MetricBreach
from tidegate.v1.rollout_events_pb2 import (
    Evidence,
    Phase,
    RetirementChanged,
    RolloutCommand,
    RolloutStep,
    RouteApplied,
)
from tidegate.v1.values_pb2 import Change, Version

_OUTCOMES: Final = {
    Check.OUTCOME_PASSED: "passed",
    Check.OUTCOME_FAILED: "FAILED",
    Check.OUTCOME_SKIPPED: "skipped",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One step of the story; ``details`` are its reasons."""

    time: datetime
    source: str
    headline: str
    details: tuple[str, ...] = ()


def explain(events: Iterable[Event], *, model: str, version: str, rollout_id: str = "") -> list[Line]:
    """Return the story of ``model@version`` (of one of its rollouts only, if named), in order of time."""
    own = [event for event in events if event.subject == model]
    chosen = _about(own, version=version, rollout_id=rollout_id)
    return [line for event in sorted(chosen, key=lambda event: event.time) if (line := describe(event)) is not None]


def describe(event: Event) -> Line | None:
    """Return ``event`` as a line, or None if it says nothing to people (heartbeats, snapshots)."""
    tell = _TELLERS.get(event.type)
    told = tell(event.message) if tell is not None else None
    if told is None:
        return None
    headline, details = told
    return Line(time=event.time, source=event.source, headline=headline, details=tuple(details))


def version_of_rollout(events: Iterable[Event], rollout_id: str) -> tuple[str, str] | None:
    """Return the model and candidate of ``rollout_id``, if an event tells."""
    for event in events:
        message: Any = event.message
        if isinstance(message, RolloutStep) and message.rollout_id == rollout_id:
            return message.model, format_version(message.candidate)
    return None


def phase_name(phase: int) -> str:
    """Return ``phase`` as people write it: ROLLING_BACK."""
    return Phase.Name(phase).removeprefix("PHASE_")  # type: ignore[arg-type]  # the stubs want their own int type


def evidence_line(evidence: Evidence) -> str:
    """Return what one guard knows, in one line."""
    return (
        f"{evidence.guard}: evidence {evidence.e_value:.3g} against threshold {evidence.threshold:.3g}; "
        f"candidate {evidence.candidate_estimate:.4g} of {evidence.candidate_count} requests, "
        f"stable {evidence.stable_estimate:.4g} of {evidence.stable_count}"
    )


def traffic_line(step: RolloutStep) -> str:
    """Return the shares of the versions, in one line."""
    return (
        ", ".join(f"{format_version(arm.version)} {arm.weight_millionths / 10_000:g} %" for arm in step.arms)
        or "no traffic yet"
    )


def _about(events: Sequence[Event], *, version: str, rollout_id: str) -> list[Event]:
    routes: dict[tuple[int, int], datetime] = {}
    rollouts: set[str] = set()
    for event in events:
        step = event.message
        if isinstance(step, RolloutStep) and _is(step.candidate, version) and rollout_id in {"", step.rollout_id}:
            rollouts.add(step.rollout_id)
            routes.setdefault((step.route_epoch, step.route_revision), event.time)
    correlations = {
        event.correlation_id
        for event in events
        if isinstance(event.message, ModelRegistered) and _is(event.message.version, version)
    }

    def belongs(event: Event) -> bool:
        message: Any = event.message
        named_rollout = getattr(message, "rollout_id", "")
        if rollout_id and named_rollout and named_rollout != rollout_id:
            return False
        if isinstance(message, TrainingCompleted):
            return event.correlation_id in correlations
        # What is asked of a rollout names no version.
        if isinstance(message, RolloutStep) or (isinstance(message, RolloutCommand) and message.rollout_id):
            return message.rollout_id in rollouts
        if isinstance(message, RouteApplied):
            # A rollout's first step still has its predecessor's route, which was acknowledged before.
            named_time = routes.get((message.epoch, message.revision))
            return named_time is not None and event.time >= named_time
        if isinstance(message, AliasMoved):
            return _is(message.version, version) or _is(message.previous_version, version)
        # What is about the whole model is about each of its versions.
        is_of_model = isinstance(message, RetirementChanged) and not message.HasField("version")
        return is_of_model or (hasattr(message, "version") and _is(message.version, version))

    return [event for event in events if belongs(event)]


def _is(version: Version, text: str) -> bool:
    return format_version(version) == text


Told = tuple[str, list[str]]


def _training(message: TrainingCompleted) -> Told:
    metrics = [f"{metric.name} {metric.value:.4f}" for metric in message.metrics if not metric.slice]
    return "a training was published", [", ".join(metrics)] if metrics else []


def _registered(message: ModelRegistered) -> Told:
    change = Change.Name(message.change).removeprefix("CHANGE_")
    against = f" against {format_version(message.baseline)}" if message.HasField("baseline") else ""
    details = [message.reason]
    if message.decision.rule:
        details.append(f"rule {message.decision.rule}; its inputs and numbers are in the event")
    return f"registered as {format_version(message.version)} ({change}{against})", details


def _rejected(message: RegistrationRejected) -> Told:
    return "the registry refused", [f"{reason.code}: {reason.message}" for reason in message.reasons]


def _duplicate(message: RegistrationDuplicate) -> Told:
    return f"the same as {format_version(message.version)}: no new version", []


def _check(check: Check) -> str:
    bound = f", expected {check.bound}" if check.bound else ""
    detail = f" ({check.detail})" if check.detail else ""
    observed = f": {check.observed}" if check.observed else ""
    return f"{_OUTCOMES.get(check.outcome, 'unknown')} {check.suite}/{check.name}{observed}{bound}{detail}"


def _validated(message: ValidationPassed) -> Told:
    return f"validation passed, {len(message.checks)} checks", [_check(check) for check in message.checks]


def _not_validated(message: ValidationFailed) -> Told:
    reasons = [f"{reason.code}: {reason.message}" for reason in message.reasons]
    return "validation FAILED", [*reasons, *(_check(check) for check in message.checks)]


def _blessed(message: ModelBlessed) -> Told:
    details = [
        f"{each.runtime} in sandbox {each.sandbox}: loaded in {each.load_time_ms:.0f} ms, "
        f"p99 {each.latency_ms_p99:.1f} ms, peak memory {each.peak_memory_bytes / 2**20:.0f} MiB"
        for each in message.runtimes
    ]
    return f"blessed: {format_version(message.version)} may be delivered", details


def _approved(message: VersionApproved) -> Told:
    return f"approved by {message.actor}", [message.reason] if message.reason else []


def _version_rejected(message: VersionRejected) -> Told:
    return f"rejected by {message.actor}", [message.reason] if message.reason else []


def _alias(message: AliasMoved) -> Told:
    target = format_version(message.version) if message.HasField("version") else "nowhere"
    before = f" (was {format_version(message.previous_version)})" if message.HasField("previous_version") else ""
    return f"alias {message.alias} points to {target}{before}", []


def _command(message: RolloutCommand) -> Told:
    verb = RolloutCommand.Verb.Name(message.verb).removeprefix("VERB_")
    return f"{message.actor or 'somebody'} commanded {verb}", [message.reason] if message.reason else []


def _step(message: RolloutStep) -> Told:
    where = f" step {message.step_index + 1}" if phase_name(message.phase) == "STEPPING" else ""
    details = [message.reason] if message.reason else []
    details.extend(evidence_line(evidence) for evidence in message.evidence)
    return f"{phase_name(message.phase)}{where}: {traffic_line(message)}", details


def _retirement(message: RetirementChanged) -> Told:
    what = format_version(message.version) if message.HasField("version") else f"the model {message.model}"
    return f"{what} was {'retired' if message.retired else 'brought back'}", [message.reason, message.cause]


def _route(message: RouteApplied) -> Told | None:
    if message.refusal:
        return f"a proxy refused route {message.epoch}/{message.revision}", [message.refusal]
    if not message.complete:
        return "a route waits for " + ", ".join(message.missing or ["a proxy"]), []
    proxies = ", ".join(message.applied)
    after = f" after {message.latency_ms:.1f} ms" if message.latency_ms else ""
    return f"route {message.epoch}/{message.revision} acknowledged by {proxies}{after}", []


def _evidence(message: EvidenceReached) -> Told:
    return f"good enough at this step ({message.guard} was last)", [evidence_line(message.evidence)]


def _breach(message: MetricBreach) -> Told:
    first = message.first_evidence_time.ToDatetime().isoformat(timespec="milliseconds")
    return f"BREACH of {message.guard}", [evidence_line(message.evidence), f"first bad answer at {first}Z"]


def _drift(message: DriftDetected) -> Told:
    names = ", ".join(message.features)
    return f"drift in {names}", [f"statistic {message.statistic:.4g} against threshold {message.threshold:.4g}"]


_TELLERS: Final[dict[str, Callable[[Any], Told | None]]] = {
    "TrainingCompleted": _training,
    "ModelRegistered": _registered,
    "RegistrationRejected": _rejected,
    "RegistrationDuplicate": _duplicate,
    "ValidationPassed": _validated,
    "ValidationFailed": _not_validated,
    "ModelBlessed": _blessed,
    "VersionApproved": _approved,
    "VersionRejected": _version_rejected,
    "AliasMoved": _alias,
    "RolloutCommand": _command,
    "RolloutStep": _step,
    "RouteApplied": _route,
    "RetirementChanged": _retirement,
    "EvidenceReached": _evidence,
    "MetricBreach": _breach,
    "DriftDetected": _drift,
}
