"""Would callers of the version before still be answered? Pure.

A new MINOR or PIPELINE version takes over the callers of its baseline, who go on sending what they always sent. So the
baseline's recorded requests, in the baseline's datatypes, are sent to the new version's server, and its answers are
held against the outputs that these callers got.

Where nothing was recorded, requests are built from the baseline's signature. Their values are made up and may be none
that any model takes, so each has a twin: the same values in the form of the new signature. Only a request that
fails where its twin is answered shows that it is the form that breaks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from tidegate.contracts.names import format_version
from tidegate.core.errors import InvalidInput
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.values_pb2 import Change, Signature, Tensor
from tidegate.validator.inference import InferenceRequest, request_for
from tidegate.validator.recorded import Recorded, read_recorded
from tidegate.validator.store import ModelMemory, Origin
from tidegate.validator.verdict import Answer, Check, Outcome, OutputWanted, shape_fits

SUITE: Final = "callers"
CODE: Final = "CALLERS_BREAK"
SAME_LINE: Final = frozenset({Change.CHANGE_MINOR, Change.CHANGE_PIPELINE})
BUILT_VALUES_MAX: Final = 100_000

_FAMILIES: Final = ("FP", "BF", "UINT", "INT", "BOOL", "BYTES")
_FLOATING: Final = "FP"


@dataclass(frozen=True, kw_only=True, slots=True)
class CallersRequest:
    """What a caller sends, and the outputs that it asks for (none: all); ``twin`` is there where values are made up."""

    request: InferenceRequest
    asked: tuple[str, ...] = ()
    twin: InferenceRequest | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Callers:
    """Callers of ``version`` and the outputs they rely on; ``skipped`` says why nothing can be asked for them."""

    version: str = ""
    requests: tuple[CallersRequest, ...] = ()
    outputs: tuple[OutputWanted, ...] = ()
    recorded: bool = True
    skipped: str = ""

    @property
    def kind(self) -> str:
        """Return what the requests are, for people."""
        return (
            f"sample requests of {self.version}"
            if self.recorded
            else f"requests built from the signature of {self.version}"
        )


def origin_of(registered: ModelRegistered, memory: ModelMemory) -> Origin | str:
    """Return the version whose callers ``registered`` takes over, or why there is none.

    A baseline that failed validation never had callers; those of the version before it count.
    """
    if registered.change not in SAME_LINE or not registered.HasField("baseline"):
        return "it begins a MAJOR line: nobody calls it yet"
    wanted = format_version(registered.baseline)
    while wanted:
        origin = memory.origin(registered.model, wanted)
        if origin is None:
            return f"the registration of {wanted} is not remembered"
        if not origin.failed:
            return origin
        wanted = origin.baseline
    return "no version of this MAJOR line has passed validation: nobody calls it yet"


def callers_of(
    origin: Origin, signature: Signature, samples: pa.Table | Sequence[Recorded] | None, *, most: int
) -> Callers:
    """Return what callers of ``origin`` send, at most ``most`` requests, to the version with ``signature``.

    Raises:
        InvalidInput: ``samples`` are not of the origin's signature, or there are none and built ones are too large.

    """
    outputs = tuple(
        OutputWanted(name=one.name, datatype=one.datatype, shape=tuple(one.shape))
        for one in origin.signature.outputs
        if not one.optional
    )
    found = Callers(version=origin.version, outputs=outputs)
    if samples is not None and len(samples):
        return replace(found, requests=tuple(_recorded(origin.signature, samples, min(len(samples), most))))
    built = tuple(_built(origin.signature, signature))
    if all(one.request == one.twin for one in built):
        why = f"{origin.version} has no sample requests, and its signature asks in the same form"
        return replace(found, skipped=why)
    return replace(found, requests=built, recorded=False)


def _recorded(signature: Signature, samples: pa.Table | Sequence[Recorded], count: int) -> Iterator[CallersRequest]:
    for row in range(count):
        if isinstance(samples, pa.Table):
            yield CallersRequest(request=request_for(signature, samples, row, 1))
        else:
            yield CallersRequest(request=samples[row].request, asked=samples[row].asked)


def _built(old: Signature, new: Signature) -> Iterator[CallersRequest]:
    """Yield a request with every input of ``old``, and one without those that callers may leave out."""
    was = {tensor.name: tensor for tensor in old.inputs}
    twin = _request([(was.get(tensor.name, tensor), tensor.datatype) for tensor in new.inputs])
    everything = list(old.inputs)
    required = [tensor for tensor in everything if not tensor.optional]
    for inputs in [everything] if len(required) in {0, len(everything)} else [everything, required]:
        yield CallersRequest(request=_request([(tensor, tensor.datatype) for tensor in inputs]), twin=twin)


def _request(inputs: Sequence[tuple[Tensor, str]]) -> InferenceRequest:
    """Return a request with one example of each tensor, in the datatype beside it."""
    tensors = [{"name": tensor.name, "datatype": datatype, **_example(tensor)} for tensor, datatype in inputs]
    (one,) = read_recorded(json.dumps({"inputs": tensors}).encode())
    return one.request


def _example(tensor: Tensor) -> dict[str, Any]:
    """Return the smallest tensor of its form: one of each free dimension, each value the legal one next to zero."""
    shape = [1 if length < 0 else length for length in tensor.shape]
    if math.prod(shape) > BUILT_VALUES_MAX:
        raise InvalidInput(
            f"a request built from its signature has {math.prod(shape)} values in {tensor.name!r}, expected at most "
            f"{BUILT_VALUES_MAX}",
            code="SAMPLE_REQUEST_INVALID",
            hint="register versions with sample requests",
        )
    return {"shape": shape, "data": [_value(tensor)] * math.prod(shape)}


def _value(tensor: Tensor) -> Any:
    if tensor.datatype == "BYTES":
        return tensor.categories[0] if tensor.categories else ""
    if tensor.datatype == "BOOL":
        return False
    least = tensor.min if tensor.HasField("min") else 0.0
    greatest = tensor.max if tensor.HasField("max") else 0.0
    nearest = least if least > 0 else min(greatest, 0.0)
    if _family(tensor.datatype) == _FLOATING:
        return nearest
    return math.ceil(nearest) if nearest > 0 else math.floor(nearest)


def fault_of(answer: Answer, outputs: Sequence[OutputWanted], *, asked: Sequence[str] = ()) -> str:
    """Return how ``answer`` breaks a caller who relies on ``outputs``, those ``asked`` for if any; empty = it does not.

    Within a family of datatypes (floating, integer, ...) nothing breaks; a rank, or a length that was fixed, does.
    """
    if answer.failure:
        return answer.failure
    seen = {output.name: output for output in answer.outputs}
    for wanted in outputs:
        if asked and wanted.name not in asked:
            continue
        found = seen.get(wanted.name)
        if found is None:
            return f"no output {wanted.name!r}, outputs {sorted(seen)}"
        if _family(found.datatype) != _family(wanted.datatype):
            return f"output {wanted.name!r} is {found.datatype}, was {wanted.datatype}"
        if not shape_fits(found.shape, wanted.shape):
            return f"output {wanted.name!r} has shape {list(found.shape)}, had {list(wanted.shape)}"
        if not found.is_finite:
            return f"output {wanted.name!r} holds NaN or infinity"
    return ""


def _family(datatype: str) -> str:
    found = next((one for one in _FAMILIES if datatype.startswith(one)), datatype)
    return {"BF": _FLOATING, "UINT": "INT"}.get(found, found)


def all_answered(runtime: str, callers: Callers) -> Check:
    """Return the check that passed, or was skipped as ``callers`` say."""
    if callers.skipped:
        return _check(runtime, callers, Outcome.SKIPPED, detail=callers.skipped)
    observed = f"{len(callers.requests)} {callers.kind} answered"
    return _check(runtime, callers, Outcome.PASSED, observed=observed, bound="answers that its callers can read")


def broken(runtime: str, callers: Callers, place: int, fault: str) -> Check:
    """Return the check that failed at the request of index ``place``."""
    where = f"request {place + 1} of {len(callers.requests)} {callers.kind}"
    bound = f"an answer that callers of {callers.version} can read"
    check = _check(runtime, callers, Outcome.FAILED, observed=fault, bound=bound, detail=where)
    return replace(check, code=CODE)


def undecided(runtime: str, callers: Callers, fault: str) -> Check:
    """Return the check that was skipped because a request with made-up values fails in the new form too."""
    why = f"{callers.version} has no sample requests, and values that are made up are refused in any form: {fault}"
    return _check(runtime, callers, Outcome.SKIPPED, detail=why)


def _check(
    runtime: str, callers: Callers, outcome: Outcome, *, observed: str = "", bound: str = "", detail: str = ""
) -> Check:
    name = f"{runtime}: callers of {callers.version}" if callers.version else f"{runtime}: callers"
    return Check(suite=SUITE, name=name, outcome=outcome, observed=observed, bound=bound, detail=detail)
