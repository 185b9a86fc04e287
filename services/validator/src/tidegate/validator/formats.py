"""What an artifact looks like by its first bytes: pure. The real loading is the serving binary's business."""

from __future__ import annotations

from typing import Final

HEAD_BYTES: Final = 4096
ONNX: Final = "onnx"
PICKLE: Final = "pickle"
UNKNOWN: Final = "unknown"

# Pickle protocols 2 to 5 begin with PROTO; joblib's compressed files are zlib, gzip, bzip2, xz
# or lzma; torch's are zip.
_PICKLE_PROTOCOLS: Final = tuple(bytes((0x80, number)) for number in range(2, 6))
_COMPRESSED: Final = (
    b"\x78\x01",
    b"\x78\x5e",
    b"\x78\x9c",
    b"\x78\xda",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"\x5d\x00\x00",
)
_ZIP: Final = b"PK\x03\x04"
# ModelProto begins with ir_version (field 1, varint), or in rare writers with another of its fields 2 to 20.
_IR_VERSION_TAG: Final = 0x08
_IR_VERSION_MAX: Final = 64


def sniff(head: bytes) -> str:
    """Return ONNX, PICKLE or UNKNOWN for a file that begins with ``head``."""
    if head.startswith((*_PICKLE_PROTOCOLS, *_COMPRESSED, _ZIP)) or _is_text_pickle(head):
        return PICKLE
    if len(head) > 2 and head[0] == _IR_VERSION_TAG and 0 < head[1] <= _IR_VERSION_MAX:
        return ONNX
    return UNKNOWN


def _is_text_pickle(head: bytes) -> bool:
    """Say whether it is a pickle of protocol 0, which begins with a GLOBAL, MARK or LIST opcode as text."""
    return head[:1] in {b"c", b"("} and b"\n" in head[:256] and b"." in head
