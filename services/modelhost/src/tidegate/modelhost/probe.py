"""Asks a model server whether it is ready."""

from __future__ import annotations

import asyncio
from typing import Final

PROBE_TIMEOUT_S: Final = 2.0
STATUS_LINE_BYTES_MAX: Final = 1024


async def is_ready(endpoint: str, path: str) -> bool:
    """Say whether ``GET path`` at ``endpoint`` (unix:/path or host:port) answers 200 within two seconds."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await _ask(endpoint, path)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return False


async def _ask(endpoint: str, path: str) -> bool:
    if endpoint.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(endpoint.removeprefix("unix:"), limit=STATUS_LINE_BYTES_MAX)
    else:
        host, _, port = endpoint.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=STATUS_LINE_BYTES_MAX)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: model\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        status_line = await reader.readuntil(b"\r\n")
    finally:
        writer.close()
    return status_line.split(b" ", 2)[1:2] == [b"200"]
