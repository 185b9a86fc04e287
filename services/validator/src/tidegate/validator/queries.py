"""From Parquet files to tables, and from Open Inference Protocol answers to arrays: pure."""

from __future__ import annotations

import io
import math
import sys
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.core.errors import InvalidInput
from tidegate.v1.values_pb2 import Signature
from tidegate.validator.verdict import GoldenSeen, OutputSeen

EXPECTED_PREFIX: Final = "expected_"
LABEL: Final = "label"
VALUES_MAX: Final = 10_000_000
FINITE_MAX: Final = sys.float_info.max


def read_table(data: bytes, what: str) -> pa.Table:
    """Return the table in a Parquet file.

    Raises:
        InvalidInput: It is none (code FILE_UNREADABLE).

    """
    try:
        return pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"the {what} is not Parquet: {error}", code="FILE_UNREADABLE") from None


def outputs_of(body: Any) -> tuple[OutputSeen, ...]:
    """Return what an answer holds; numbers that JSON could not carry (null) count as not finite.

    Raises:
        ValueError: It is not an answer of the protocol.

    """
    outputs = body.get("outputs") if isinstance(body, dict) else None
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise ValueError("outputs are missing")
    return tuple(_output(output) for output in outputs)


def _output(output: dict[str, Any]) -> OutputSeen:
    name, datatype, shape = output.get("name"), output.get("datatype"), output.get("shape")
    if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(shape, list):
        raise ValueError("an output lacks name, datatype or shape")  # noqa: TRY004  (one kind of fault: malformed)
    if not all(type(length) is int and 0 <= length <= VALUES_MAX for length in shape):
        raise ValueError(f"output {name!r} has shape {shape}")
    values = flat(output.get("data", []))
    if math.prod(shape) != len(values):
        raise ValueError(f"output {name!r} has {len(values)} values in shape {shape}")
    numeric = datatype not in {"BYTES", "BOOL"}
    finite = not numeric or all(isinstance(value, int | float) and abs(value) <= FINITE_MAX for value in values)
    return OutputSeen(name=name, datatype=datatype, shape=tuple(shape), is_finite=finite)


def flat(values: Any) -> list[Any]:
    """Return nested lists as one; a value alone as a list of one."""
    if not isinstance(values, list):
        return [values]
    return [one for value in values for one in flat(value)]


def array_of(body: dict[str, Any], name: str) -> np.ndarray[Any, Any]:
    """Return one output of an answer as an array of its shape (empty if it is not there)."""
    for output in body.get("outputs", []):
        if output.get("name") == name:
            numbers = np.asarray(flat(output["data"]))
            return numbers.reshape(output["shape"]) if numbers.size == np.prod(output["shape"]) else numbers
    return np.asarray([])


def golden_of(table: pa.Table, answers: list[dict[str, Any]], signature: Signature) -> tuple[GoldenSeen, ...]:
    """Compare the answers, one a row, with the expected_* columns."""
    found = []
    for output in signature.outputs:
        column = EXPECTED_PREFIX + output.name
        if column not in table.column_names:
            continue
        expected = table[column].to_pylist()[: len(answers)]
        pairs = zip(expected, answers, strict=True)
        differences = [difference(want, array_of(body, output.name), output.datatype) for want, body in pairs]
        found.append(
            GoldenSeen(output=output.name, row_count=len(expected), difference_max=max(differences, default=0.0))
        )
    return tuple(found)


def difference(want: Any, answer: np.ndarray[Any, Any], datatype: str) -> float:
    """Return how far ``answer`` is from ``want`` at most; infinite where they can't be compared."""
    wanted = flat(want)
    have = answer.reshape(-1).tolist()
    if len(wanted) != len(have):
        return float("inf")
    if datatype == "BYTES":
        return 0.0 if [str(value) for value in wanted] == [str(value) for value in have] else float("inf")
    try:
        gap = np.max(np.abs(np.asarray(wanted, dtype=np.float64) - np.asarray(have, dtype=np.float64)), initial=0.0)
    except (TypeError, ValueError):
        return float("inf")
    return float("inf") if np.isnan(gap) else float(gap)
