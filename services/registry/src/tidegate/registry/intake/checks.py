"""What a registration must bring before anything is fetched (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from tidegate.contracts.names import is_digest
from tidegate.contracts.uris import uri_fault
from tidegate.v1.events_pb2 import TrainingCompleted
from tidegate.v1.policy_pb2 import RegistrationPolicy
from tidegate.v1.values_pb2 import Reason, Tensor

TRAINING_BYTES_MAX: Final = 200_000
TEXT_CHARS_MAX: Final = 256  # the width of the columns
MODEL_TOLD_CHARS_MAX: Final = 200
DATATYPES: Final = frozenset(
    {
        "BOOL",
        *("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "FP32", "FP64", "BYTES"),
    }
)


def shape_faults(training: TrainingCompleted) -> list[Reason]:
    """Return what is wrong with a registration whatever the policy says; empty = nothing yet."""
    found = [*_text_faults(training), *_uri_faults(training), *_signature_faults(training)]
    if training.ByteSize() > TRAINING_BYTES_MAX:
        message = f"the event has {training.ByteSize()} bytes, at most {TRAINING_BYTES_MAX}"
        found.append(Reason(code="METADATA_TOO_LARGE", message=message))
    return found


def can_be_told(model: str) -> bool:
    """Say whether a producer can be told of a rejection under this (maybe illegal) name: short and printable."""
    return 0 < len(model) <= MODEL_TOLD_CHARS_MAX and model.isprintable()


def missing_facts(training: TrainingCompleted, policy: RegistrationPolicy) -> list[Reason]:
    """Return which facts that the policy requires are missing; a name that is no known fact means a tag."""
    return list(_missing_facts(training, policy))


def _missing_facts(training: TrainingCompleted, policy: RegistrationPolicy) -> Iterator[Reason]:
    facts = {
        "owner": ("card.owner", training.card.owner),
        "description": ("card.description", training.card.description),
        "code_commit": ("lineage.code_commit", training.lineage.code_commit),
        "metrics": ("metrics", len(training.metrics)),
    }
    for name in policy.required:
        field, value = facts.get(name, (name, training.tags.get(name, "")))
        if not value:
            yield Reason(
                code="FACT_MISSING",
                message=f"{field} is missing, the policy of {training.model} requires {name}",
                field=field,
            )


def _signature_faults(training: TrainingCompleted) -> Iterator[Reason]:
    for side, tensors in (("inputs", training.signature.inputs), ("outputs", training.signature.outputs)):
        names: set[str] = set()
        for index, tensor in enumerate(tensors):
            field = f"signature.{side}[{index}]"
            for message in _tensor_faults(tensor):
                yield Reason(code="SIGNATURE_INVALID", message=f"{field} {message}", field=field)
            if tensor.name in names:
                message = f"{field} has the name {tensor.name!r} of another one"
                yield Reason(code="SIGNATURE_INVALID", message=message, field=field)
            names.add(tensor.name)


def _tensor_faults(tensor: Tensor) -> Iterator[str]:
    if not tensor.name:
        yield "has no name"
    if tensor.datatype not in DATATYPES:
        yield f"has datatype {tensor.datatype!r}, expected one of {', '.join(sorted(DATATYPES))}"
    if any(dimension < -1 for dimension in tensor.shape):
        yield f"has shape {list(tensor.shape)}, expected dimensions from 0, or -1 for any"
    if not (math.isfinite(tensor.min) and math.isfinite(tensor.max)):
        yield "has a bound that is not finite; leave it out for none"
    if tensor.HasField("min") and tensor.HasField("max") and tensor.min > tensor.max:
        yield f"has min {tensor.min:g} above max {tensor.max:g}"


def _uri_faults(training: TrainingCompleted) -> Iterator[Reason]:
    for field, uri in (
        ("artifact.uri", training.artifact.uri),
        ("evaluation_uri", training.evaluation_uri),
        ("reference_data_uri", training.reference_data_uri),
        ("sample_requests_uri", training.sample_requests_uri),
    ):
        # An empty one names nothing; whether it must is judged where it is fetched.
        if uri and (fault := uri_fault(uri)):
            yield Reason(code="URI_INVALID", message=f"{field}: {fault}", field=field)


def _text_faults(training: TrainingCompleted) -> Iterator[Reason]:
    lineage = training.lineage
    for field, text in (
        ("request_id", training.request_id),
        ("lineage.code_commit", lineage.code_commit),
        ("lineage.pipeline_digest", lineage.pipeline_digest),
        ("lineage.config_digest", lineage.config_digest),
        ("lineage.environment_digest", lineage.environment_digest),
        ("lineage.parent", lineage.parent),
        *(("lineage.preprocessing_digests", digest) for digest in lineage.preprocessing_digests),
        *(("lineage.datasets.uri", dataset.uri) for dataset in lineage.datasets if not dataset.digest),
    ):
        if "\0" in text:
            yield Reason(code="TEXT_INVALID", message=f"{field} holds a zero byte", field=field)
        if len(text) > TEXT_CHARS_MAX:
            message = f"{field} has {len(text)} characters, at most {TEXT_CHARS_MAX}"
            yield Reason(code="TEXT_TOO_LONG", message=message, field=field)
    for index, dataset in enumerate(lineage.datasets):
        if dataset.digest and not is_digest(dataset.digest):
            field = f"lineage.datasets[{index}].digest"
            message = f"{field} is {dataset.digest!r}, expected sha256: and 64 hex digits"
            yield Reason(code="DIGEST_INVALID", message=message, field=field)
