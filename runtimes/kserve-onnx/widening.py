# ruff: noqa: INP001  (beside a program, in no package)
"""Which datatypes a caller may send where the model takes a wider one: those of which no value is lost.

The registry calls the same changes of an input compatible (its ``signatures.py``); a test compares the two tables.
A 64-bit integer is not among them for FP64, which has 53 bits for it.
"""

from __future__ import annotations

from typing import Final

WIDER: Final[dict[str, frozenset[str]]] = {
    "INT8": frozenset({"INT16", "INT32", "INT64", "FP32", "FP64"}),
    "INT16": frozenset({"INT32", "INT64", "FP32", "FP64"}),
    "INT32": frozenset({"INT64", "FP64"}),
    "UINT8": frozenset({"UINT16", "UINT32", "UINT64", "INT16", "INT32", "INT64", "FP32", "FP64"}),
    "UINT16": frozenset({"UINT32", "UINT64", "INT32", "INT64", "FP32", "FP64"}),
    "UINT32": frozenset({"UINT64", "INT64", "FP64"}),
    "FP16": frozenset({"FP32", "FP64"}),
    "FP32": frozenset({"FP64"}),
}


def takes(expected: str, given: str) -> bool:
    """Say whether a model that takes ``expected`` can be given ``given`` without losing a value."""
    return given == expected or expected in WIDER.get(given, frozenset())
