"""Sample requests as JSON Lines of Open Inference Protocol bodies, each with an optional ``expected``: pure.

For models whose requests no table can say: scalars, states whose batch is not the first dimension, rows of differing
length. FP16 and BF16 have no JSON form in most servers and go by the binary tensor data extension.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tidegate.core.errors import InvalidInput
from tidegate.validator.inference import HEADER_LENGTH, InferenceRequest
from tidegate.validator.queries import array_of, difference, flat
from tidegate.validator.verdict import GoldenSeen

LINES_MAX: Final = 10_000
LINE_BYTES_MAX: Final = 8 << 20
_KEYS: Final = frozenset({"id", "inputs", "outputs", "parameters", "expected"})
_BINARY: Final = frozenset({"FP16", "BF16"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """One request as it is sent, the outputs that it asks for (none: all), and those that are compared."""

    request: InferenceRequest
    asked: tuple[str, ...] = ()
    expected: tuple[Mapping[str, Any], ...] = ()


def is_recorded(data: bytes) -> bool:
    """Say whether a file of sample requests is JSON Lines (else it is to be Parquet)."""
    return data.lstrip()[:1] == b"{"


def read_recorded(data: bytes) -> tuple[Recorded, ...]:
    """Return the requests of a file.

    Raises:
        InvalidInput: A line is no request; the message names line and field (code SAMPLE_REQUEST_INVALID).

    """
    found = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        if number > LINES_MAX or len(line) > LINE_BYTES_MAX:
            raise _invalid(number, "", f"lines: at most {LINES_MAX} of at most {LINE_BYTES_MAX} bytes each")
        found.append(_recorded(number, line))
    return tuple(found)


def _recorded(number: int, line: bytes) -> Recorded:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _invalid(number, "", f"a JSON object ({error})") from None
    if not isinstance(document, dict):
        raise _invalid(number, "", "a JSON object")
    unknown = sorted(document.keys() - _KEYS)
    if unknown:
        raise _invalid(number, unknown[0], f"one of {', '.join(sorted(_KEYS))}")
    expected = document.pop("expected", [])
    if isinstance(expected, dict):
        expected = expected.get("outputs")
    _check_tensors(number, "inputs", document.get("inputs"))
    _check_tensors(number, "expected", expected)
    if not document["inputs"]:
        raise _invalid(number, "inputs", "at least one tensor")
    asked = _asked(number, document)
    for index, output in enumerate(expected):
        if asked and output["name"] not in asked:
            raise _invalid(number, f"expected[{index}].name", f"one of the outputs asked for, {', '.join(asked)}")
    return Recorded(request=_request(number, document), asked=asked, expected=tuple(expected))


def _asked(number: int, document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names in ``outputs``; answers are read as JSON, so none may be asked for in binary."""
    outputs = document.get("outputs", [])
    if not isinstance(outputs, list):
        raise _invalid(number, "outputs", "a list of objects with a name")
    _check_json_answer(number, "parameters", document, "binary_data_output")
    for index, output in enumerate(outputs):
        where = f"outputs[{index}]"
        if not isinstance(output, dict) or not isinstance(output.get("name"), str) or not output["name"]:
            raise _invalid(number, f"{where}.name", "a text")
        _check_json_answer(number, f"{where}.parameters", output, "binary_data")
    return tuple(output["name"] for output in outputs)


def _check_json_answer(number: int, where: str, owner: Mapping[str, Any], key: str) -> None:
    parameters = owner.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _invalid(number, where, "an object")
    if parameters.get(key):
        raise _invalid(number, f"{where}.{key}", "false, since answers are compared as JSON")


def _check_tensors(number: int, field: str, tensors: Any) -> None:
    if not isinstance(tensors, list):
        raise _invalid(number, field, "a list of tensors")
    for index, tensor in enumerate(tensors):
        where = f"{field}[{index}]"
        if not isinstance(tensor, dict):
            raise _invalid(number, where, "an object with name, datatype, shape and data")
        for key in ("name", "datatype"):
            if not isinstance(tensor.get(key), str) or not tensor[key]:
                raise _invalid(number, f"{where}.{key}", "a text")
        shape = tensor.get("shape")
        if not isinstance(shape, list) or not all(type(length) is int and length >= 0 for length in shape):
            raise _invalid(number, f"{where}.shape", "a list of lengths from 0; [] is a scalar")
        if "data" not in tensor:
            raise _invalid(number, f"{where}.data", "the values")
        if len(flat(tensor["data"])) != math.prod(shape):
            raise _invalid(number, f"{where}.data", f"{math.prod(shape)} values, as shape {shape} says")


def _request(number: int, document: dict[str, Any]) -> InferenceRequest:
    inputs, tail = [], b""
    for index, tensor in enumerate(document["inputs"]):
        if tensor["datatype"] not in _BINARY:
            # The protocol's data is a list, also a scalar's.
            inputs.append(tensor if isinstance(tensor["data"], list) else tensor | {"data": [tensor["data"]]})
            continue
        try:
            raw = _raw(tensor["datatype"], flat(tensor["data"]))
        except (TypeError, ValueError):
            raise _invalid(number, f"inputs[{index}].data", "numbers") from None
        described = {key: value for key, value in tensor.items() if key != "data"}
        inputs.append(described | {"parameters": {"binary_data_size": len(raw)}})
        tail += raw
    head = json.dumps(document | {"inputs": inputs}).encode()
    if not tail:
        return InferenceRequest(head, {"Content-Type": "application/json"})
    return InferenceRequest(head + tail, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))})


def _raw(datatype: str, values: Sequence[Any]) -> bytes:
    with np.errstate(over="ignore"):
        if datatype == "FP16":
            return np.array(values, dtype="<f2").tobytes()
        # The upper half of an FP32 is its BF16, rounded to zero.
        return (np.array(values, dtype="<f4").view("<u4") >> 16).astype("<u2").tobytes()


def golden_of_recorded(recorded: Sequence[Recorded], bodies: Sequence[Mapping[str, Any]]) -> tuple[GoldenSeen, ...]:
    """Compare the answers, one a request, with what the requests expect."""
    worst: dict[str, list[float]] = {}
    for name, gap in _gaps(recorded, bodies):
        worst.setdefault(name, []).append(gap)
    return tuple(GoldenSeen(output=name, row_count=len(gaps), difference_max=max(gaps)) for name, gaps in worst.items())


def _gaps(recorded: Sequence[Recorded], bodies: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    for one, body in zip(recorded, bodies, strict=True):
        for output in one.expected:
            answer = array_of(dict(body), output["name"])
            fits = list(answer.shape) == output["shape"] or (not output["shape"] and answer.size == 1)
            gap = difference(output["data"], answer, output["datatype"]) if fits else float("inf")
            yield output["name"], gap


def _invalid(number: int, field: str, expected: str) -> InvalidInput:
    where = f"line {number}" + (f", {field}" if field else "")
    return InvalidInput(
        f"the sample requests have a fault at {where}: expected {expected}",
        code="SAMPLE_REQUEST_INVALID",
        field="sample_requests_uri",
    )
