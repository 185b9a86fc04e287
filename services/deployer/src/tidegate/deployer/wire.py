"""Between the contract's messages and the core's values: pure, one function a direction."""

from __future__ import annotations

import json
import uuid
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import TypeAdapter

from tidegate.contracts import codec
from tidegate.deployer import events as core
from tidegate.deployer.state import (
    Arm,
    Blessed,
    DeliveryPolicy,
    EvidenceItem,
    KnownVersion,
    Line,
    ModelState,
    Number,
    RetirementRecord,
    Route,
    StepRecord,
    Strategy,
)
from tidegate.deployer.waiting import CODE as WAITING
from tidegate.v1 import events_pb2, monitoring_events_pb2
from tidegate.v1 import rollout_events_pb2 as pb
from tidegate.v1.policy_pb2 import GuardPolicy, Policy, StrategyPolicy
from tidegate.v1.values_pb2 import Reason, Version

STATE_FORMAT: Final = 1
_STATE: Final = TypeAdapter(ModelState)


def number_from(version: Version) -> Number:
    """Return the core's number of ``version``."""
    return Number(version.major, version.minor, version.pipeline)


def version_from(number: Number) -> Version:
    """Return the contract's version of ``number``."""
    return Version(major=number.major, minor=number.minor, pipeline=number.pipeline)


def rollout_id_for(model: str, number: Number, blessing_id: str) -> str:
    """Return the id of the rollout that a blessing opens; the same blessing gives the same id."""
    return f"{model}-{number}-{uuid.uuid5(codec.EVENT_ID_NAMESPACE, f'rollout|{blessing_id}').hex[:8]}"


def policy_from(policy: Policy, revision: int) -> DeliveryPolicy:
    """Return the part of a resolved policy that delivery obeys."""
    rollout = policy.rollout
    approvals = policy.registration.approvals
    return DeliveryPolicy(
        revision=revision,
        on_first=_strategy_from(rollout.on_first),
        on_major=_strategy_from(rollout.on_major),
        on_minor=_strategy_from(rollout.on_minor),
        on_pipeline=_strategy_from(rollout.on_pipeline),
        approvals=(approvals.major, approvals.minor, approvals.pipeline),
        deadline_s=rollout.deadline_s,
        settle_s=rollout.settle_s,
        holdback=rollout.holdback,
        on_breach=rollout.on_breach,
        mid_rollout=rollout.mid_rollout,
        mode=policy.mode,
        guards_json=canonical_json(json_format.MessageToDict(policy.guards, preserving_proto_field_name=True)),
    )


def _strategy_from(strategy: StrategyPolicy) -> Strategy:
    return Strategy(
        name=strategy.strategy, steps=tuple(strategy.steps), bake_s=strategy.bake_s, approval=strategy.approval
    )


def canonical_json(document: Any) -> str:
    """Return JSON that is the same for equal documents."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def core_event(event: codec.Event, time_s: float) -> core.Event | None:
    """Return what an event of the contract means to the core, or None if nothing; ``time_s`` is when it came."""
    message = event.message
    cause = f"{event.type} {event.id}"
    match message:
        case events_pb2.ModelRegistered():
            return core.VersionRegistered(time_s=time_s, cause=cause, version=_known_version(message))
        case events_pb2.ModelBlessed():
            return core.VersionBlessed(time_s=time_s, cause=cause, blessed=_blessed(event, message))
        case events_pb2.VersionApproved():
            return core.VersionApproved(time_s=time_s, cause=cause, number=number_from(message.version))
        case pb.RolloutCommand():
            return command_from(message, time_s, cause)
        case pb.RouteApplied():
            return route_event(message, time_s)
        case _:
            return _evidence_event(message, time_s, cause)


def route_event(applied: pb.RouteApplied, time_s: float) -> core.Event | None:
    """Return what the proxies' word about a route means to the core; nothing while some are silent."""
    cause = f"RouteApplied {applied.epoch}.{applied.revision}"
    if applied.refusal:
        return core.RouteRefused(
            time_s=time_s, cause=cause, epoch=applied.epoch, revision=applied.revision, message=applied.refusal
        )
    if applied.complete:
        return core.RouteAcknowledged(time_s=time_s, cause=cause, epoch=applied.epoch, revision=applied.revision)
    return None


def _evidence_event(message: object, time_s: float, cause: str) -> core.Event | None:
    match message:
        case monitoring_events_pb2.EvidenceReached():
            return core.EvidenceReached(
                time_s=time_s,
                cause=cause,
                rollout_id=message.rollout_id,
                epoch=message.route_epoch,
                revision=message.route_revision,
                evidence=evidence_from(message.evidence),
            )
        case monitoring_events_pb2.MetricBreach():
            evidence = evidence_from(message.evidence)
            return core.MetricBreached(
                time_s=time_s, cause=cause, rollout_id=message.rollout_id, guard=message.guard, evidence=evidence
            )
        case monitoring_events_pb2.MetricReport() if message.rollout_id:
            return core.HeartbeatSeen(time_s=time_s, cause=cause, rollout_id=message.rollout_id)
        case _:
            return None


def _known_version(message: events_pb2.ModelRegistered) -> KnownVersion:
    artifact = message.artifact
    return KnownVersion(
        number=number_from(message.version),
        uri=artifact.uri,
        digest=artifact.digest,
        size_bytes=artifact.size_bytes,
        format=artifact.format,
    )


def _blessed(event: codec.Event, message: events_pb2.ModelBlessed) -> Blessed:
    number = number_from(message.version)
    return Blessed(
        number=number,
        policy=policy_from(message.policy, message.policy_revision),
        cause_id=event.id,
        rollout_id=rollout_id_for(message.model, number, event.id),
        correlation_id=event.correlation_id,
    )


def command_from(message: pb.RolloutCommand, time_s: float, cause: str) -> core.CommandGiven | None:
    """Return the core's command; None if it names no verb."""
    if message.verb == pb.RolloutCommand.VERB_UNSPECIFIED:
        return None
    verb = pb.RolloutCommand.Verb.Name(message.verb).removeprefix("VERB_")
    return core.CommandGiven(
        time_s=time_s,
        cause=f"{cause}: {message.reason}" if message.reason else cause,
        request_id=message.request_id,
        verb=core.Verb(verb),
        rollout_id=message.rollout_id,
        number=number_from(message.version) if message.HasField("version") else None,
        full=message.mode == pb.RolloutCommand.MODE_FULL,
        actor=message.actor or "somebody",
    )


def evidence_from(message: pb.Evidence) -> EvidenceItem:
    """Return the core's evidence."""
    return EvidenceItem(
        guard=message.guard,
        e_value=message.e_value,
        threshold=message.threshold,
        candidate_estimate=message.candidate_estimate,
        stable_estimate=message.stable_estimate,
        candidate_count=message.candidate_count,
        stable_count=message.stable_count,
    )


def _evidence_to(item: EvidenceItem) -> pb.Evidence:
    return pb.Evidence(
        guard=item.guard,
        e_value=item.e_value,
        threshold=item.threshold,
        candidate_estimate=item.candidate_estimate,
        stable_estimate=item.stable_estimate,
        candidate_count=item.candidate_count,
        stable_count=item.stable_count,
    )


def step_message(model: str, step: StepRecord) -> pb.RolloutStep:
    """Return the contract's RolloutStep of ``step``."""
    rollout = step.rollout
    return pb.RolloutStep(
        rollout_id=rollout.rollout_id,
        model=model,
        sequence=step.sequence,
        candidate=version_from(rollout.candidate),
        stable=None if rollout.stable is None else version_from(rollout.stable),
        strategy=rollout.strategy,
        phase=pb.Phase.Value(f"PHASE_{rollout.phase}"),
        step_index=rollout.step_index,
        arms=[_arm_message(arm) for arm in step.arms],
        route_epoch=step.route_epoch,
        route_revision=step.route_revision,
        reason=step.reason,
        evidence=[_evidence_to(item) for item in rollout.evidence],
        cause=step.cause,
        policy_revision=rollout.policy.revision,
        decided_time=_timestamp(step.time_s),
        breached_guard=rollout.breached_guard,
        guards=json_format.Parse(rollout.policy.guards_json, GuardPolicy()),
        waiting=Reason(code=WAITING, message=rollout.waiting) if rollout.waiting else None,
    )


def retirement_message(model: str, change: RetirementRecord) -> pb.RetirementChanged:
    """Return the contract's RetirementChanged of ``change``."""
    return pb.RetirementChanged(
        model=model,
        version=None if change.number is None else version_from(change.number),
        retired=change.is_retired,
        sequence=change.sequence,
        route_epoch=change.route_epoch,
        route_revision=change.route_revision,
        actor=change.actor,
        reason=change.reason,
        cause=change.cause,
        decided_time=_timestamp(change.time_s),
        rollout_id=change.rollout_id,
        request_id=change.request_id,
    )


def _timestamp(time_s: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round(time_s * 1_000_000))
    return stamp


def _arm_message(arm: Arm) -> pb.Arm:
    return pb.Arm(
        version=version_from(arm.number),
        role=pb.ArmRole.Value(f"ARM_ROLE_{arm.role}"),
        weight_millionths=arm.weight_millionths,
    )


def route_message(model: str, route: Route) -> pb.RouteTable:
    """Return the contract's RouteTable of ``route``."""
    endpoints = dict(route.endpoints)
    return pb.RouteTable(
        model=model,
        epoch=route.epoch,
        revision=route.revision,
        lines=[_line_message(line, endpoints) for line in route.lines],
    )


def _line_message(line: Line, endpoints: dict[Number, str]) -> pb.RouteLine:
    arms = [
        pb.RouteArm(
            version=version_from(arm.number),
            role=pb.ArmRole.Value(f"ARM_ROLE_{arm.role}"),
            weight_millionths=arm.weight_millionths,
            endpoints=[endpoints[arm.number]] if endpoints.get(arm.number) else [],
        )
        for arm in line.arms
    ]
    return pb.RouteLine(
        major=line.major,
        arms=arms,
        assignment=pb.RouteLine.ASSIGNMENT_REQUEST,
        fallback_version=None if line.fallback is None else version_from(line.fallback),
    )


def state_message(state: ModelState) -> pb.RolloutState:
    """Return the snapshot of ``state``."""
    document = json.loads(_STATE.dump_json(state))
    return pb.RolloutState(model=state.model, state_json=canonical_json(document), format=STATE_FORMAT)


def state_from(message: pb.RolloutState) -> ModelState:
    """Return the state in a snapshot.

    Raises:
        ValueError: The snapshot has another format.

    """
    if message.format != STATE_FORMAT:
        raise ValueError(f"the state of {message.model!r} has format {message.format}, expected {STATE_FORMAT}")
    return _STATE.validate_json(message.state_json)
