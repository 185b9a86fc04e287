"""The top-level fields of protobuf bytes, without a schema and without copying (protobuf encoding, wire types)."""

from __future__ import annotations

from typing import Final

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES: Final = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BYTES_MAX: Final = 10
_FIELD_NUMBER_MAX: Final = 536_870_911
FIELDS_MAX: Final = 1_000_000

Fields = dict[int, list[int | memoryview]]


def scan_fields(view: memoryview) -> Fields | None:
    """Return each field's values (numbers, or views of the bytes); None if these bytes are no protobuf message."""
    fields: Fields = {}
    at = 0
    for _ in range(FIELDS_MAX):
        if at == len(view):
            return fields
        tag, at = _varint(view, at)
        number, wire_type = tag >> 3, tag & 7
        if at < 0 or not 0 < number <= _FIELD_NUMBER_MAX:
            return None
        value: int | memoryview
        if wire_type == _VARINT:
            value, at = _varint(view, at)
        else:
            length = _FIXED_BYTES.get(wire_type, -1)
            if wire_type == _LENGTH:
                length, at = _varint(view, at)
            if length < 0 or at < 0 or at + length > len(view):
                return None
            value, at = view[at : at + length], at + length
        if at < 0:
            return None
        fields.setdefault(number, []).append(value)
    return None


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """Return the number at ``at`` and where it ends; -1 as the end if there is none."""
    value = 0
    for index, byte in enumerate(view[at : at + _VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    return 0, -1
