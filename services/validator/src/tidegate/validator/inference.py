"""From table rows to Open Inference Protocol v2 requests: pure.

A tensor of the signature is the column of its name. Rows are sent as JSON; a floating tensor that holds a missing or
infinite value is sent by the protocol's binary tensor data extension instead, since JSON can carry neither
(https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol/binary-tensor-data-extension).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from tidegate.core.errors import InvalidInput
from tidegate.v1.values_pb2 import Signature, Tensor
from tidegate.validator.queries import flat

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
# Little-endian, as the extension wants.
_FLOATING: Final = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """The ``body`` of one request and the ``headers`` that say what it is."""

    body: bytes
    headers: dict[str, str]


def rows_at_once(signature: Signature, most: int) -> int:
    """Return how many rows one request may carry: as many as the inputs' fixed first dimension, else ``most``."""
    firsts = {tensor.shape[0] if tensor.shape else 1 for tensor in signature.inputs}
    fixed = {length for length in firsts if length > 0}
    if not fixed:
        return most
    return min(fixed) if len(fixed) == 1 else 1


def request_for(signature: Signature, table: pa.Table, start: int, count: int) -> InferenceRequest:
    """Return the request that asks for rows ``start`` to ``start + count`` of ``table``.

    A null in a floating column is NaN, as in pandas; elsewhere the protocol has no way to say it.

    Raises:
        InvalidInput: The table lacks a column of the signature (code COLUMN_MISSING), its rows have another width
            (COLUMN_MISSHAPEN), a value is not of the tensor's datatype (COLUMN_DATATYPE_MISMATCH), or a column that is
            not floating has a null (COLUMN_HAS_NULLS).

    """
    rows = table.slice(start, count)
    asked = [tensor for tensor in signature.inputs if not tensor.optional or tensor.name in rows.column_names]
    encoded = [_input(tensor, rows, start) for tensor in asked]
    head = json.dumps({"inputs": [described for described, _ in encoded]}, allow_nan=False).encode()
    tail = b"".join(raw for _, raw in encoded)
    if not tail:
        return InferenceRequest(head, {"Content-Type": "application/json"})
    return InferenceRequest(head + tail, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))})


def _input(tensor: Tensor, rows: pa.Table, start: int) -> tuple[dict[str, Any], bytes]:
    """Return the JSON that describes one input, and its binary data (empty where the JSON carries them)."""
    values, inner = _values(tensor, rows)
    shape = [rows.num_rows, *inner] if tensor.shape else []
    described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}
    if tensor.datatype not in _FLOATING:
        for index, value in enumerate(values):
            if not _carries(tensor.datatype, value):
                raise _misfit(tensor, value, start + index * rows.num_rows // len(values))
        return {**described, "data": values}, b""
    numbers = _numbers(tensor, values, start, rows.num_rows)
    # FP16 has no JSON form: servers refuse it there.
    if tensor.datatype != "FP16" and np.isfinite(numbers).all():
        return {**described, "data": numbers.tolist()}, b""
    with np.errstate(over="ignore"):
        raw = numbers.astype(_FLOATING[tensor.datatype]).tobytes()
    return {**described, "parameters": {"binary_data_size": len(raw)}}, raw


def _numbers(tensor: Tensor, values: list[Any], start: int, row_count: int) -> np.ndarray[Any, Any]:
    numbers = np.empty(len(values), dtype=np.float64)
    for index, value in enumerate(values):
        try:
            numbers[index] = np.nan if value is None else value
        except (TypeError, ValueError):
            raise _misfit(tensor, value, start + index * row_count // len(values)) from None
    return numbers


def _carries(datatype: str, value: Any) -> bool:
    if datatype == "BYTES":
        return isinstance(value, str)
    if datatype == "BOOL":
        return isinstance(value, bool)
    return isinstance(value, int) and not isinstance(value, bool)


def _misfit(tensor: Tensor, value: Any, row: int) -> InvalidInput:
    if value is None:
        return InvalidInput(
            f"column {tensor.name!r} has a null in row {row}, which datatype {tensor.datatype} cannot carry, expected "
            "a value in every row (fill it, or use a floating tensor)",
            code="COLUMN_HAS_NULLS",
            field=tensor.name,
        )
    return InvalidInput(
        f"column {tensor.name!r} has {value!r:.80} ({type(value).__name__}) in row {row}, expected {tensor.datatype}",
        code="COLUMN_DATATYPE_MISMATCH",
        field=tensor.name,
    )


def _values(tensor: Tensor, rows: pa.Table) -> tuple[list[Any], tuple[int, ...]]:
    """Return the values of one input, flat, and the shape of each row's part of them."""
    if tensor.name not in rows.column_names:
        raise InvalidInput(
            f"column {tensor.name!r} is missing, the file has {rows.column_names}",
            code="COLUMN_MISSING",
            field=tensor.name,
        )
    values = rows[tensor.name].to_pylist()
    parts = [flat(value) for value in values]
    lengths = {len(part) for part in parts}
    inner = _inner_shape(list(tensor.shape[1:]), values[0], next(iter(lengths))) if len(lengths) == 1 else None
    if inner is None:
        width = int(np.prod([length for length in tensor.shape[1:] if length > 0], dtype=np.int64))
        raise InvalidInput(
            f"column {tensor.name!r} holds {sum(map(len, parts))} values in {rows.num_rows} rows, expected {width} a "
            f"row (shape {list(tensor.shape)})",
            code="COLUMN_MISSHAPEN",
            field=tensor.name,
            hint="requests that no table can say go as JSON Lines of Open Inference Protocol bodies",
        )
    return [one for part in parts for one in part], inner


def _inner_shape(wanted: list[int], value: Any, length: int) -> tuple[int, ...] | None:
    """Return the shape of a row of ``length`` values with dimensions ``wanted`` (-1 = any); None if none fits."""
    fixed = int(np.prod([one for one in wanted if one > 0], dtype=np.int64))
    free = sum(one < 0 for one in wanted)
    if free == 0:
        return tuple(wanted) if length == fixed else None
    if free == 1:
        return tuple(length // fixed if one < 0 else one for one in wanted) if fixed and length % fixed == 0 else None
    # More than one free dimension: only lists within lists tell which is which.
    try:
        found = np.shape(value)
    except ValueError:
        return None
    fits = len(found) == len(wanted) and all(want in {-1, have} for want, have in zip(wanted, found, strict=True))
    return tuple(found) if fits else None
