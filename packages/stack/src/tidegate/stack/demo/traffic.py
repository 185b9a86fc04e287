"""Live traffic: flights of later months, sent through the gateway at a steady rate, every answer counted."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from tidegate.stack.demo.data import INPUTS, Flights
from tidegate.stack.demo.models import MODEL
from tidegate.stack.demo.publication import datatype

RATE_PER_S: Final = 200.0
CONNECTIONS: Final = 8
TIMEOUT_S: Final = 10.0
FAILURES_KEPT: Final = 20
LATENCIES_KEPT: Final = 20_000
HEADERS: Final = {"content-type": "application/json"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A request that the client saw fail; status 0 = no answer."""

    status: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One request as its client saw it; times are the monotonic clock's, status 0 = no answer."""

    begin_s: float
    end_s: float
    status: int
    version: str = ""
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What became of the requests so far, as the client saw it."""

    requests: int
    failed: int
    by_version: Mapping[str, int]
    latency_ms_p50: float
    latency_ms_p99: float
    failures: tuple[Failure, ...] = field(default=())

    def since(self, earlier: Report) -> Mapping[str, int]:
        """Return the answers by version after ``earlier``."""
        return {
            version: count - earlier.by_version.get(version, 0)
            for version, count in sorted(self.by_version.items())
            if count > earlier.by_version.get(version, 0)
        }


def infer_path(model: str = MODEL) -> str:
    """Return the path that applications call."""
    return f"/v2/models/{model}/infer"


def request_bodies(flights: Flights) -> list[bytes]:
    """Return one request of the Open Inference Protocol for each flight."""
    columns = {name: flights.inputs[name].tolist() for name in INPUTS}
    kinds = {name: datatype(name) for name in INPUTS}
    return [
        json.dumps(
            {
                "inputs": [
                    {"name": name, "shape": [1, 1], "datatype": kinds[name], "data": [columns[name][row]]}
                    for name in INPUTS
                ]
            }
        ).encode()
        for row in range(len(flights))
    ]


class Traffic:
    """Sends ``bodies`` again and again, ``rate_per_s``, over CONNECTIONS kept-alive connections; use as ``with``.

    The schedule is open: a slow answer does not slow the next request down, until all connections are busy.
    ``observe`` is told of each answer, one at a time, in no particular order.
    """

    def __init__(
        self,
        gateway_url: str,
        bodies: Sequence[bytes],
        *,
        rate_per_s: float = RATE_PER_S,
        observe: Callable[[Answer], None] | None = None,
    ) -> None:
        self._gateway = urlsplit(gateway_url)
        self._bodies = bodies
        self._interval_s = 1.0 / rate_per_s
        self._observe = observe
        self._numbers = itertools.count()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._versions: Counter[str] = Counter()
        self._failures: list[Failure] = []
        self._failed = 0
        self._latencies: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._begin = 0.0
        self._threads = [
            threading.Thread(target=self._send_all, name=f"traffic-{number}", daemon=True)
            for number in range(CONNECTIONS)
        ]

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> Report:
        """Send nothing more, wait for the answers that are due, and return what became of all."""
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(2 * TIMEOUT_S)
        return self.report()

    def report(self) -> Report:
        """Return what became of the requests so far."""
        with self._lock:
            latencies = sorted(self._latencies)
            return Report(
                requests=self._versions.total() + self._failed,
                failed=self._failed,
                by_version=dict(self._versions),
                latency_ms_p50=_quantile(latencies, 0.5) * 1000,
                latency_ms_p99=_quantile(latencies, 0.99) * 1000,
                failures=tuple(self._failures),
            )

    def _send_all(self) -> None:
        connection = self._connect()
        while not self._stopped.is_set():
            number = next(self._numbers)
            due = self._begin + number * self._interval_s
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                break
            if not self._send(connection, self._bodies[number % len(self._bodies)]):
                connection.close()
        connection.close()

    def _send(self, connection: Any, body: bytes) -> bool:
        """Send one request and count its answer; return whether the connection is still good."""
        begin_s = time.monotonic()
        try:
            connection.request("POST", infer_path(), body=body, headers=HEADERS)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._count(Answer(begin_s=begin_s, end_s=time.monotonic(), status=0, text=repr(error)))
            return False
        is_good = response.status == HTTPStatus.OK
        version = response.headers.get("x-tidegate-version", "unknown" if is_good else "")
        text = "" if is_good else content[:200].decode(errors="replace")
        end_s = time.monotonic()
        self._count(Answer(begin_s=begin_s, end_s=end_s, status=response.status, version=version, text=text))
        return True

    def _count(self, answer: Answer) -> None:
        with self._lock:
            if answer.status == HTTPStatus.OK:
                self._versions[answer.version] += 1
                self._latencies.append(answer.end_s - answer.begin_s)
            else:
                self._failed += 1
                if len(self._failures) < FAILURES_KEPT:
                    self._failures.append(Failure(status=answer.status, text=answer.text))
            if self._observe is not None:
                self._observe(answer)

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(
            self._gateway.hostname or "127.0.0.1", self._gateway.port or 80, timeout=TIMEOUT_S
        )


def first_answer(gateway_url: str, body: bytes, *, deadline_s: float) -> str:
    """Return the version that answers the first request with 200; ask again until ``deadline_s`` is over.

    Raises:
        TimeoutError: Nobody answered with 200; the message has the last answer.

    """
    gateway = urlsplit(gateway_url)
    deadline = time.monotonic() + deadline_s
    last = "no answer"
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(gateway.hostname or "127.0.0.1", gateway.port or 80, timeout=TIMEOUT_S)
        try:
            connection.request("POST", infer_path(), body=body, headers=HEADERS)
            response = connection.getresponse()
            text = response.read()
            if response.status == HTTPStatus.OK:
                return response.headers.get("x-tidegate-version", "unknown")
            last = f"{response.status} {text[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        finally:
            connection.close()
        time.sleep(0.05)
    raise TimeoutError(f"{gateway_url}{infer_path()} did not answer with 200 in {deadline_s:.0f} s; last: {last}")


def _quantile(ordered: Sequence[float], level: float) -> float:
    return ordered[min(len(ordered) - 1, int(level * len(ordered)))] if ordered else 0.0
