"""A model server that is ready at once: it gives a request's number back, or fails when it is told to.

For benchmarks that are about everything but the model server. Standard library only; speaks what the gateway asks of
the Open Inference Protocol v2 (REST) on a unix socket. A version whose name stands in the file FAILING answers 500.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from pathlib import Path
from typing import Final

BACKLOG: Final = 1024


class EchoServer:
    """Answers for one version."""

    def __init__(self, *, version: str, failing: Path) -> None:
        self._version = version
        self._failing = failing

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in head[1:]}
                content = await reader.readexactly(int(headers.get("content-length", "0")))
                status, body = self.answer(head[0], content)
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
                if headers.get("connection", "").lower() == "close":
                    break
        writer.close()

    def answer(self, request_line: str, content: bytes) -> tuple[str, bytes]:
        """Return status and body."""
        if not request_line.startswith("POST"):
            return "200 OK", b"{}"
        if self._is_failing():
            return "500 Internal Server Error", b'{"error": "told to fail"}'
        number = json.loads(content)["inputs"][0]["data"][0]
        outputs = [
            {"name": "probability", "shape": [1, 1], "datatype": "FP32", "data": [0.5]},
            {"name": "echo", "shape": [1, 1], "datatype": "FP32", "data": [number]},
        ]
        return "200 OK", json.dumps({"model_version": self._version, "outputs": outputs}).encode()

    def _is_failing(self) -> bool:
        try:
            return self._version in self._failing.read_text().split()
        except FileNotFoundError:
            return False


async def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", required=True)
    parser.add_argument("--listen", required=True, help="unix:/path")
    parser.add_argument("--failing", type=Path, required=True)
    chosen = parser.parse_args()
    server = EchoServer(version=chosen.version, failing=chosen.failing)
    path = chosen.listen.removeprefix("unix:")
    listening = await asyncio.start_unix_server(server.serve, path, backlog=BACKLOG)
    async with listening:
        await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
