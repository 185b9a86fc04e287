"""The event that tells of a version."""

from __future__ import annotations

from tidegate.registry.catalog.outbox import Cause
from tidegate.registry.catalog.wire import CHANGES, number_to_wire
from tidegate.registry.numbering.inputs_json import to_json
from tidegate.registry.registration.deciding import Decided
from tidegate.v1.events_pb2 import ModelRegistered, VersionDecision
from tidegate.v1.values_pb2 import Artifact


def announce(decided: Decided, cause: Cause) -> ModelRegistered:
    """Return the event, complete but for its sequence and the URIs of the stored files."""
    prepared, decision = decided.prepared, decided.decision
    training = prepared.training
    revision = decided.line.policy_revision
    policy_told = "the built-in policy" if revision == 0 else f"policy revision {revision}"
    registered = ModelRegistered(
        model=training.model,
        version=number_to_wire(decision.version),
        artifact=Artifact(
            uri=training.artifact.uri,
            digest=prepared.artifact.digest,
            size_bytes=prepared.artifact.size_bytes,
            format="onnx",
        ),
        signature=training.signature,
        lineage=training.lineage,
        metrics=training.metrics,
        change=CHANGES[decision.change],
        reason=f"{decision.reason} (by {policy_told})",
        decision=VersionDecision(
            rule=decision.rule, inputs_json=to_json(decided.given), numbers_json=to_json(decision.numbers)
        ),
        policy=prepared.policy,
        policy_revision=revision,
        actor=cause.actor,
        evaluation_uri=training.evaluation_uri,
        reference_data_uri=training.reference_data_uri,
        sample_requests_uri=training.sample_requests_uri,
        tags=training.tags,
        card=training.card,
    )
    if decision.baseline is not None:
        registered.baseline.CopyFrom(number_to_wire(decision.baseline))
    return registered
