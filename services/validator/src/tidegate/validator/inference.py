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

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
# Little-endian, as the extension wants.
_FLOATING: Final = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """The ``body`` of one request and the ``headers`` that say what it is."""

    body: bytes
    headers: dict[str, str]


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
    values = _values(tensor, rows)
    described: dict[str, Any] = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": [rows.num_rows, *(max(length, 1) for length in tensor.shape[1:])],
    }
    if tensor.datatype not in _FLOATING:
        for index, value in enumerate(values):
            if not _carries(tensor.datatype, value):
                raise _misfit(tensor, value, start + index * rows.num_rows // len(values))
        return {**described, "data": values}, b""
    numbers = _numbers(tensor, values, start, rows.num_rows)
    if np.isfinite(numbers).all():
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


def _values(tensor: Tensor, rows: pa.Table) -> list[Any]:
    if tensor.name not in rows.column_names:
        raise InvalidInput(
            f"column {tensor.name!r} is missing, the file has {rows.column_names}",
            code="COLUMN_MISSING",
            field=tensor.name,
        )
    values = rows[tensor.name].to_pylist()
    width = int(np.prod([length for length in tensor.shape[1:] if length > 0], dtype=np.int64))
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    if len(flat) != rows.num_rows * width:
        raise InvalidInput(
            f"column {tensor.name!r} holds {len(flat)} values in {rows.num_rows} rows, expected {width} a row",
            code="COLUMN_MISSHAPEN",
            field=tensor.name,
        )
    return flat
