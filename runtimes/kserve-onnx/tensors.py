# ruff: noqa: INP001  (a program, not a package)
"""Tensors between the Open Inference Protocol and ONNX Runtime: strict on the way in, finite on the way out."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from kserve import InferInput, InferOutput
from kserve.errors import InferenceError, InvalidInput
from kserve.utils.numpy_codec import to_np_dtype
from widening import takes

# ONNX Runtime's type -> the protocol's datatype.
DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
# JSON does not carry FP16 in this SDK.
OUTPUT_DATATYPES: Final = {**DATATYPES, "tensor(float16)": "FP32"}
# Kinds of numpy that JSON data may have, by the kind of the input; anything else would be converted silently.
_ACCEPTED_KINDS: Final = {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}


def array_of(given: InferInput, expected: Any) -> np.ndarray[Any, Any]:
    """Return the array of ``given`` for the model's input ``expected``; raises InvalidInput naming the input.

    A narrower datatype is read as what it is, then cast to the model's.
    """
    datatype = DATATYPES[expected.type]
    if not takes(datatype, given.datatype):
        raise InvalidInput(f"input {given.name!r} has datatype {given.datatype}, expected {datatype}")
    lengths = list(expected.shape)
    fits = len(given.shape) == len(lengths) and all(
        length >= 0 and (not isinstance(wanted, int) or wanted == length)
        for length, wanted in zip(given.shape, lengths, strict=True)
    )
    if not fits:
        wanted_shape = [length if isinstance(length, int) else -1 for length in lengths]
        raise InvalidInput(f"input {given.name!r} has shape {given.shape}, expected {wanted_shape}")
    try:
        array = _binary(given) if given.data is None else _from_json(given, given.datatype)
    except InvalidInput:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"input {given.name!r} has data that do not fit: {error}") from error
    return array if given.datatype == datatype else array.astype(to_np_dtype(datatype))


def _binary(given: InferInput) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = given.as_numpy()
    if given.datatype != "BYTES":
        return array
    return np.array([item.decode() for item in array.ravel()], dtype=object).reshape(given.shape)


def _from_json(given: InferInput, datatype: str) -> np.ndarray[Any, Any]:
    dtype = np.dtype(to_np_dtype(datatype))
    if datatype == "BYTES":
        array = np.array(given.data, dtype=object).ravel()
        if not all(isinstance(item, str) for item in array):
            raise InvalidInput(f"input {given.name!r} has data that are not all strings, expected BYTES")
        array = array.astype(object)
    else:
        found = np.array(given.data)
        if dtype.kind in "iu" and found.dtype.kind == "f":
            # Integers on both sides of 2^63 become floats unless they are kept as they are.
            whole = np.array(given.data, dtype=object)
            found = whole.astype(dtype) if all(type(item) is int for item in whole.ravel()) else found
        if found.size and found.dtype.kind not in _ACCEPTED_KINDS[dtype.kind]:
            raise InvalidInput(f"input {given.name!r} has data of kind {found.dtype}, expected {datatype}")
        array = found.astype(dtype) if found.dtype.kind == "f" or not found.size else np.array(given.data, dtype=dtype)
    if array.size != math.prod(given.shape):
        raise InvalidInput(f"input {given.name!r} has {array.size} values, expected {math.prod(given.shape)} by shape")
    return array.reshape(given.shape)


def output_of(name: str, datatype: str, array: np.ndarray[Any, Any]) -> InferOutput:
    """Return the protocol's output.

    JSON has no NaN and no infinity, and the SDK would silently write null: such an answer is an error instead.

    Raises:
        InferenceError: A value is not finite, or the model's datatype can't be carried.

    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InferenceError(f"OUTPUT_NOT_FINITE: output {name!r} holds NaN or infinity")
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    output = InferOutput(name=name, shape=list(array.shape), datatype=datatype)
    output.set_data_from_numpy(array, binary_data=False)
    return output
