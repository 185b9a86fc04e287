"""Decompressing batches of other producers, with a bound: eight kilobytes of zstd may stand for gigabytes."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any, Final

import cramjam
from aiokafka import codec
from aiokafka.errors import CorruptRecordException
from aiokafka.record import default_records

# A batch comes in a megabyte at most; no producer of events fills more than this before it compresses.
DECOMPRESSED_BYTES_MAX: Final = 64 << 20
_SMALL_BYTES: Final = 4 << 20
_GZIP: Final = 31
_XERIAL_HEAD_BYTES: Final = 16


def bound_codecs() -> None:
    """Have the Kafka client of this process decompress with a bound; repeatable."""
    # The batches are the library's compiled ones where those can be loaded.
    module = sys.modules[default_records.DefaultRecordBatch.__module__]
    for name, decode in (("gzip", gzip), ("snappy", snappy), ("lz4", lz4), ("zstd", zstd)):
        setattr(module, f"{name}_decode", decode)


def gzip(payload: Any) -> bytes:
    """Decompress gzip; raises CorruptRecordException beyond the bound, and the codec's errors."""
    data, parts, room = bytes(payload), [], DECOMPRESSED_BYTES_MAX
    while data:
        member = zlib.decompressobj(wbits=_GZIP)
        parts.append(member.decompress(data, room + 1))
        room -= len(parts[-1])
        if room < 0:
            raise _too_large()
        if not member.eof:
            raise CorruptRecordException("the gzip data of the batch ends too early")
        data = member.unused_data
    return b"".join(parts)


def snappy(payload: Any) -> bytes:
    """Decompress snappy, also in Java's framing; raises CorruptRecordException beyond the bound."""
    data, parts, room = bytes(payload), [], DECOMPRESSED_BYTES_MAX
    blocks = _xerial_blocks(data) if codec._detect_xerial_stream(data) else [data]  # noqa: SLF001
    for block in blocks:
        room -= int(cramjam.snappy.decompress_raw_len(block))
        if room < 0:
            raise _too_large()
        parts.append(bytes(cramjam.snappy.decompress_raw(block)))
    return b"".join(parts)


def lz4(payload: Any) -> bytes:
    """Decompress an lz4 frame; raises CorruptRecordException beyond the bound."""
    return _into(cramjam.lz4.decompress_into, payload)


def zstd(payload: Any) -> bytes:
    """Decompress a zstd frame; raises CorruptRecordException beyond the bound."""
    return _into(cramjam.zstd.decompress_into, payload)


def _into(decompress_into: Callable[[Any, Any], int], payload: Any) -> bytes:
    try:
        return _within(decompress_into, payload, _SMALL_BYTES)
    except cramjam.DecompressionError:
        # The codec says of a full buffer and of damage the same.
        pass
    try:
        return _within(decompress_into, payload, DECOMPRESSED_BYTES_MAX)
    except cramjam.DecompressionError as error:
        raise CorruptRecordException(
            f"the batch is damaged, or has more than {DECOMPRESSED_BYTES_MAX} bytes decompressed: {error}"
        ) from error


def _within(decompress_into: Callable[[Any, Any], int], payload: Any, limit_bytes: int) -> bytes:
    room = bytearray(limit_bytes)
    return bytes(memoryview(room)[: decompress_into(bytes(payload), room)])


def _xerial_blocks(data: bytes) -> list[bytes]:
    blocks, place = [], _XERIAL_HEAD_BYTES
    while place < len(data):
        (size,) = struct.unpack_from("!i", data, place)
        block = data[place + 4 : place + 4 + size]
        if size < 0 or len(block) != size:
            raise CorruptRecordException(f"a snappy block has {len(block)} bytes, its head says {size}")
        blocks.append(block)
        place += 4 + size
    return blocks


def _too_large() -> CorruptRecordException:
    return CorruptRecordException(f"the batch has more than {DECOMPRESSED_BYTES_MAX} bytes decompressed")
