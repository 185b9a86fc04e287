"""wrk: load on loopback, and what came of it."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.tools import need

# A burst ends later than asked when the machine is busy.
GRACE_S: Final = 60.0
# Longer than the gateway takes for two attempts: what is counted is the gateway's failure, not wrk's impatience.
TIMEOUT: Final = "15s"
_REQUESTS: Final = re.compile(r"(\d+) requests in ")
_NOT_2XX: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SOCKET: Final = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Burst:
    """What wrk counted; ``socket_errors`` are connect, read, write and timeout together."""

    requests: int
    not_2xx: int
    socket_errors: int

    @property
    def failed(self) -> int:
        """All that a client would call a failure."""
        return self.not_2xx + self.socket_errors


def wrk_path() -> str:
    """Return wrk; raises ToolMissing."""
    return need("wrk", package="wrk")


def parse(text: str) -> Burst:
    """Return the counts in what wrk printed.

    Raises:
        ValueError: It printed no count of requests.

    """
    requests = _REQUESTS.search(text)
    if requests is None:
        raise ValueError(f"wrk counted no requests: {text.strip()[-500:]!r}")
    not_2xx = _NOT_2XX.search(text)
    socket = _SOCKET.search(text)
    return Burst(
        requests=int(requests.group(1)),
        not_2xx=int(not_2xx.group(1)) if not_2xx else 0,
        socket_errors=sum(int(count) for count in socket.groups()) if socket else 0,
    )


def script(body: bytes) -> str:
    """Return the Lua that makes wrk post ``body``; a JSON string of ASCII is a Lua string, too."""
    return (
        'wrk.method = "POST"\n'
        'wrk.headers["content-type"] = "application/json"\n'
        f"wrk.body = {json.dumps(body.decode('ascii'))}\n"
    )


@contextmanager
def started(url: str, *, body: bytes, seconds: float, connections: int) -> Iterator[subprocess.Popen[str]]:
    """Run wrk beside the block, one thread; it is gone afterwards."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        lua.write(script(body))
        lua.flush()
        process = subprocess.Popen(
            [
                wrk_path(),
                "-t1",
                f"-c{connections}",
                f"-d{max(1, round(seconds))}s",
                "--timeout",
                TIMEOUT,
                "-s",
                lua.name,
                url,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def ended(process: subprocess.Popen[str], *, seconds: float) -> Burst:
    """Wait for the end of a run of ``seconds`` and return its counts."""
    return parse(process.communicate(timeout=seconds + GRACE_S)[0])


def burst(url: str, *, body: bytes, seconds: float, connections: int) -> Burst:
    """Post ``body`` for ``seconds`` and return the counts."""
    with started(url, body=body, seconds=seconds, connections=connections) as process:
        return ended(process, seconds=seconds)


def infer_body(path: Path | None = None) -> bytes:
    """Return a prediction request as an application sends it (Open Inference Protocol, eight named inputs)."""
    if path is not None:
        return path.read_bytes()
    inputs = [{"name": f"input_{n}", "shape": [1, 1], "datatype": "FP32", "data": [n / 8]} for n in range(8)]
    return json.dumps({"inputs": inputs}).encode()
