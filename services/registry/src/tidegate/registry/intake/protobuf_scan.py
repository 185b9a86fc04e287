"""The top-level fields of protobuf bytes, without a schema and without copying (protobuf encoding, wire types)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES: Final = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BYTES_MAX: Final = 10
_FIELD_NUMBER_MAX: Final = 536_870_911
FIELDS_MAX: Final = 1_000_000
# Numbers that stand one by one, millions in a forest of trees: AttributeProto's floats (7) and ints (8).
_RUNS: Final = re.compile(rb"(?:\x3d[\x00-\xff]{4})+|(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])+")

Fields = dict[int, list[int | memoryview]]


def scan_fields(view: memoryview) -> Fields | None:
    """Return each field's values (numbers, or views of the bytes); None if these bytes are no protobuf message.

    More than FIELDS_MAX values are none that are worth reading either.
    """
    fields: Fields = {}
    for count, (number, value) in enumerate(_values(view)):
        if count == FIELDS_MAX or number == 0:
            return None
        fields.setdefault(number, []).append(value)
    return fields


def pick_fields(view: memoryview, wanted: frozenset[int]) -> Fields | None:
    """Return as :func:`scan_fields` does, but the ``wanted`` fields alone, however many others there are."""
    fields: Fields = {}
    for number, value in _values(view, skip=_RUNS):
        if number == 0:
            return None
        if number in wanted:
            fields.setdefault(number, []).append(value)
    return fields


def _values(view: memoryview, skip: re.Pattern[bytes] | None = None) -> Iterator[tuple[int, int | memoryview]]:
    """Yield field number and value, (0, 0) last if the bytes are no message; ``skip`` are runs to leave out."""
    at = 0
    while at < len(view):
        run = skip.match(view, at) if skip is not None else None
        if run is not None:
            at = run.end()
            continue
        tag, at = _varint(view, at)
        number, wire_type = tag >> 3, tag & 7
        if at < 0 or not 0 < number <= _FIELD_NUMBER_MAX:
            yield 0, 0
            return
        value: int | memoryview
        if wire_type == _VARINT:
            value, at = _varint(view, at)
        else:
            length = _FIXED_BYTES.get(wire_type, -1)
            if wire_type == _LENGTH:
                length, at = _varint(view, at)
            if length < 0 or at < 0 or at + length > len(view):
                yield 0, 0
                return
            value, at = view[at : at + length], at + length
        if at < 0:
            yield 0, 0
            return
        yield number, value


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """Return the number at ``at`` and where it ends; -1 as the end if there is none."""
    value = 0
    for index, byte in enumerate(view[at : at + _VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    return 0, -1
