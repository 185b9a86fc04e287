"""What a file really is, by its bytes; nothing is ever loaded or run.

Pickle is a program, so it is refused however it is wrapped (PEP 3154 for its opcodes; joblib wraps it in a compressed
stream, torch in a zip).
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import zipfile
import zlib
from mmap import mmap
from typing import Final

from tidegate.registry.intake.protobuf_scan import scan_fields

PICKLE: Final = "pickle"
ONNX: Final = "onnx"
UNKNOWN: Final = "unknown"

PICKLE_FORMATS: Final = frozenset({"pickle", "pkl", "joblib", "sklearn", "cloudpickle", "dill", "torch", "pytorch"})
HEAD_BYTES: Final = 64 * 1024
ZIP_MEMBERS_MAX: Final = 1000
_PROTO: Final = 0x80
_PROTOCOLS: Final = range(2, 6)
_TEXT_PICKLE_STARTS: Final = b"(]}cIlLFSVNi0"
_OPCODES_TRIED: Final = 50

# Fields of onnx.ModelProto and onnx.GraphProto (onnx.proto, IR version 13).
_MODEL_FIELDS: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_GRAPH_FIELDS: Final = frozenset({1, 2, 5, 8, 10, 11, 12, 13, 14, 15, 16})
_IR_VERSION, _GRAPH, _NODE, _OUTPUT = 1, 7, 1, 12
_IR_VERSIONS: Final = range(1, 100)


def sniff(data: bytes | mmap) -> str:
    """Return ``pickle`` (also compressed or zipped), ``onnx`` or ``unknown``."""
    view = memoryview(data)
    head = bytes(view[:HEAD_BYTES])
    if _is_pickle(head) or _is_pickle(_decompressed(head)) or _zip_holds_pickle(view, head):
        return PICKLE
    return ONNX if _is_onnx(view) else UNKNOWN


def _is_pickle(head: bytes) -> bool:
    if len(head) < 2:
        return False
    if head[0] == _PROTO and head[1] in _PROTOCOLS:
        return True
    # Old joblib files; protocols 0 and 1 have no mark, so their opcodes are read (never run).
    return head.startswith(b"ZF") or (head[0] in _TEXT_PICKLE_STARTS and _opcodes_are_sound(head))


def _opcodes_are_sound(head: bytes) -> bool:
    try:
        for count, (opcode, _, _) in enumerate(pickletools.genops(io.BytesIO(head)), start=1):
            if opcode.name == "STOP":
                return count > 1
            if count >= _OPCODES_TRIED:
                return True
    except ValueError:
        return False
    return False


def _decompressed(head: bytes) -> bytes:
    """Return the first bytes inside a compressed stream; empty if it is none."""
    try:
        if head[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"):
            return zlib.decompressobj().decompress(head, HEAD_BYTES)
        if head.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
        if head.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(head, HEAD_BYTES)
        if head.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
            return lzma.LZMADecompressor().decompress(head, HEAD_BYTES)
    except (zlib.error, lzma.LZMAError, OSError, EOFError):
        return b""
    return b""


def _zip_holds_pickle(view: memoryview, head: bytes) -> bool:
    if not head.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(view)) as archive:
            members = archive.infolist()
            if len(members) > ZIP_MEMBERS_MAX:
                return False
            for member in members:
                if member.filename.endswith((".pkl", ".pickle", ".joblib")):
                    return True
                with archive.open(member) as stream:
                    if _is_pickle(stream.read(HEAD_BYTES)):
                        return True
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, NotImplementedError, RuntimeError):
        return False
    return False


def _is_onnx(view: memoryview) -> bool:
    """Say whether it is a plausible ModelProto to the last byte: a sane ir_version, a graph with nodes or outputs."""
    fields = scan_fields(view)
    if fields is None or not fields.keys() <= _MODEL_FIELDS:
        return False
    ir_versions, graphs = fields.get(_IR_VERSION, []), fields.get(_GRAPH, [])
    if len(ir_versions) != 1 or len(graphs) != 1:
        return False
    ir_version, graph = ir_versions[0], graphs[0]
    if not isinstance(ir_version, int) or ir_version not in _IR_VERSIONS or isinstance(graph, int):
        return False
    inner = scan_fields(graph)
    return inner is not None and inner.keys() <= _GRAPH_FIELDS and bool(inner.get(_NODE) or inner.get(_OUTPUT))
