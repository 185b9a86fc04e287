"""Between the messages of the contract and the values of the pure core."""

from __future__ import annotations

import hashlib
from typing import Final

from google.protobuf.message import Message

from tidegate.registry.numbering.signatures import SignatureSpec, TensorSpec
from tidegate.registry.numbering.versioning import Change, Fingerprint, Gate, VersionNumber
from tidegate.v1 import values_pb2
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.policy_pb2 import GateMetric

CHANGES: Final = {
    Change.FIRST: values_pb2.CHANGE_FIRST,
    Change.MAJOR: values_pb2.CHANGE_MAJOR,
    Change.MINOR: values_pb2.CHANGE_MINOR,
    Change.PIPELINE: values_pb2.CHANGE_PIPELINE,
    # Never sent: a duplicate is no ModelRegistered.
    Change.NONE: values_pb2.CHANGE_UNSPECIFIED,
}


def digest_of(message: Message) -> str:
    """Return ``sha256:<hex>`` of the message's deterministic bytes."""
    return "sha256:" + hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()


def number_from_wire(version: values_pb2.Version) -> VersionNumber:
    """Return the number as a value."""
    return VersionNumber(major=version.major, minor=version.minor, pipeline=version.pipeline)


def number_to_wire(number: VersionNumber) -> values_pb2.Version:
    """Return the number as a message."""
    return values_pb2.Version(major=number.major, minor=number.minor, pipeline=number.pipeline)


def signature_from_wire(signature: values_pb2.Signature) -> SignatureSpec:
    """Return the signature as a value."""
    return SignatureSpec(
        inputs=tuple(_tensor(tensor) for tensor in signature.inputs),
        outputs=tuple(_tensor(tensor) for tensor in signature.outputs),
        target_id=signature.target_id,
    )


def _tensor(tensor: values_pb2.Tensor) -> TensorSpec:
    return TensorSpec(
        name=tensor.name,
        datatype=tensor.datatype,
        shape=tuple(tensor.shape),
        optional=tensor.optional,
        nullable=tensor.nullable,
        minimum=tensor.min if tensor.HasField("min") else None,
        maximum=tensor.max if tensor.HasField("max") else None,
        categories=tuple(tensor.categories),
    )


def fingerprint_of(artifact_digest: str, signature: values_pb2.Signature, lineage: values_pb2.Lineage) -> Fingerprint:
    """Return what makes this registration the same as another."""
    data = sorted(f"{values_pb2.Dataset.Role.Name(one.role)} {one.digest or one.uri}" for one in lineage.datasets)
    return Fingerprint(
        weights_digest=artifact_digest,
        signature_digest=digest_of(signature),
        pipeline_digest=lineage.pipeline_digest,
        config_digest=lineage.config_digest,
        code_commit=lineage.code_commit,
        data_digests=tuple(data),
    )


def fingerprint_of_registered(registered: ModelRegistered) -> Fingerprint:
    """Return the fingerprint of an existing version."""
    return fingerprint_of(registered.artifact.digest, registered.signature, registered.lineage)


def gate_from_wire(gate: GateMetric) -> Gate:
    """Return the gate metric as a value; its policy is resolved."""
    return Gate(metric=gate.name, higher_is_better=gate.higher_is_better, min_effect=gate.min_effect, alpha=gate.alpha)
