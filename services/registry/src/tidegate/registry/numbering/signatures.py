"""Signatures as values, and when one breaks the callers of another.

The view is the caller's: inputs may only get looser, outputs only tighter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

# An input that took the left type may take any on its right: no value of a caller gets lost (FP64 holds 53 bits of an
# integer). The shipped runtime casts just these (runtimes/kserve-onnx/widening.py).
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


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One input or output; a dimension of -1 means any, no ``minimum`` or ``maximum`` means no bound."""

    name: str
    datatype: str
    shape: tuple[int, ...] = ()
    optional: bool = False
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SignatureSpec:
    """What callers may rely on."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    target_id: str = ""

    @property
    def is_known(self) -> bool:
        """Say whether it tells anything: at least one input and one output."""
        return bool(self.inputs and self.outputs)


def incompatibilities(old: SignatureSpec, new: SignatureSpec) -> tuple[str, ...]:
    """Return why callers of ``old`` would break on ``new``, for people; empty = they would not."""
    if not old.is_known or not new.is_known:
        side = "the baseline's" if not old.is_known else "this"
        return (f"{side} signature is missing, so nothing is known about callers",)
    return tuple(_breaks(old, new))


def _breaks(old: SignatureSpec, new: SignatureSpec) -> Iterator[str]:
    if old.target_id != new.target_id:
        yield f"target_id is {new.target_id!r}, was {old.target_id!r}"
    for before, after in _pairs(old.inputs, new.inputs):
        if after is None and before is not None:
            yield f"input {before.name} is gone"
        elif before is None and after is not None and not after.optional:
            yield f"input {after.name} is new and required"
        elif before is not None and after is not None:
            yield from _input_breaks(before, after)
    for before, after in _pairs(old.outputs, new.outputs):
        if after is None and before is not None:
            yield f"output {before.name} is gone"
        elif before is not None and after is not None:
            yield from _output_breaks(before, after)


def _pairs(
    old: Sequence[TensorSpec], new: Sequence[TensorSpec]
) -> Iterator[tuple[TensorSpec | None, TensorSpec | None]]:
    after = {tensor.name: tensor for tensor in new}
    before = {tensor.name: tensor for tensor in old}
    for tensor in old:
        yield tensor, after.get(tensor.name)
    for tensor in new:
        if tensor.name not in before:
            yield None, tensor


def _input_breaks(old: TensorSpec, new: TensorSpec) -> Iterator[str]:
    name = f"input {new.name}"
    if new.datatype != old.datatype and new.datatype not in WIDER.get(old.datatype, frozenset()):
        yield f"{name} takes {new.datatype}, took {old.datatype}"
    if not _shape_covers(new.shape, old.shape):
        yield f"{name} has shape {list(new.shape)}, had {list(old.shape)}"
    if old.optional and not new.optional:
        yield f"{name} is required, was optional"
    if old.nullable and not new.nullable:
        yield f"{name} refuses nulls, took them"
    if not _range_covers(new, old):
        yield f"{name} has range {_range(new)}, had {_range(old)}"
    if new.categories and not (old.categories and set(old.categories) <= set(new.categories)):
        yield f"{name} takes fewer categories"


def _output_breaks(old: TensorSpec, new: TensorSpec) -> Iterator[str]:
    name = f"output {new.name}"
    if new.datatype != old.datatype:
        yield f"{name} is {new.datatype}, was {old.datatype}"
    if not _shape_covers(old.shape, new.shape):
        yield f"{name} has shape {list(new.shape)}, had {list(old.shape)}"
    if new.optional and not old.optional:
        yield f"{name} may be missing, was always there"
    if new.nullable and not old.nullable:
        yield f"{name} may be null, never was"
    if not _range_covers(old, new):
        yield f"{name} has range {_range(new)}, had {_range(old)}"
    # An added class breaks too: callers switch on classes.
    if set(old.categories) != set(new.categories):
        yield f"{name} has other classes"


def _shape_covers(wide: tuple[int, ...], narrow: tuple[int, ...]) -> bool:
    return len(wide) == len(narrow) and all(a in (-1, b) for a, b in zip(wide, narrow, strict=True))


def _range_covers(wide: TensorSpec, narrow: TensorSpec) -> bool:
    low_fits = wide.minimum is None or (narrow.minimum is not None and wide.minimum <= narrow.minimum)
    high_fits = wide.maximum is None or (narrow.maximum is not None and wide.maximum >= narrow.maximum)
    return low_fits and high_fits


def _range(tensor: TensorSpec) -> str:
    low = "-inf" if tensor.minimum is None else f"{tensor.minimum:g}"
    high = "inf" if tensor.maximum is None else f"{tensor.maximum:g}"
    return f"{low}..{high}"
