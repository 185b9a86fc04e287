"""A client that trusts nothing: each request has a number, and its answer must bring that number back."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, Self
from urllib.parse import urlsplit

from bench import models
from tidegate.core.errors import TidegateError

TIMEOUT_S: Final = 15.0
# A client that sent less than this share of what was due has shown nothing about failures.
SENT_SHARE_MIN: Final = 0.5
FAILURES_KEPT: Final = 10
# FP32 holds whole numbers up to here; the numbers begin again.
NUMBERS: Final = 1 << 24
HEADERS: Final = {"content-type": "application/json"}
VERSION_HEADER: Final = "x-tidegate-version"


@dataclass(kw_only=True, slots=True)
class Seen:
    """What the client has seen so far; ``first`` is when each version answered first, ``last`` when it did last."""

    answered: int = 0
    failed: int = 0
    wrong: int = 0
    by_version: Counter[str] = field(default_factory=Counter)
    first: dict[str, datetime] = field(default_factory=dict)
    last: dict[str, datetime] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class CheckedClient:
    """Sends ``rate_per_s`` requests over ``connections`` kept-alive connections; use as ``with``.

    A request that is due while all connections wait for answers is sent late: it shows failures, not waiting times.
    """

    def __init__(self, url: str, *, rate_per_s: float, connections: int = 4) -> None:
        self._url = urlsplit(url)
        self._interval_s = 1.0 / rate_per_s
        self._numbers = itertools.count(1)
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self.seen = Seen()
        self._begin = 0.0
        self._threads = [
            threading.Thread(target=self._send_all, name=f"client-{number}", daemon=True)
            for number in range(connections)
        ]

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Stop.

        Raises:
            TidegateError: It did not send what it is made for, so that "none failed" would say nothing.

        """
        seconds = time.monotonic() - self._begin
        self._stopped.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT_S)
        if kind is None:
            self._check_sent(seconds)

    def _check_sent(self, seconds: float) -> None:
        due, sent = seconds / self._interval_s, self.seen.answered + self.seen.failed
        if sent < SENT_SHARE_MIN * due:
            raise TidegateError(
                f"the client sent {sent} of {due:.0f} requests that were due in {seconds:.0f} s", code="LOAD_TOO_LOW"
            )

    def wait_first(self, version: str, *, deadline_s: float = 60.0) -> datetime:
        """Return when ``version`` answered first.

        Raises:
            TimeoutError: It has not answered within ``deadline_s``.

        """
        with self._changed:
            if not self._changed.wait_for(lambda: version in self.seen.first, timeout=deadline_s):
                raise TimeoutError(f"{version} answered nothing in {deadline_s:g} s; seen: {self.seen}")
            return self.seen.first[version]

    def _send_all(self) -> None:
        connection = self._connect()
        while not self._stopped.is_set():
            number = next(self._numbers)
            if self._stopped.wait(max(0.0, self._begin + number * self._interval_s - time.monotonic())):
                break
            if not self._send(connection, number % NUMBERS):
                connection.close()
        connection.close()

    def _send(self, connection: Any, number: int) -> bool:
        """Send one request and check its answer; return whether the connection is still good."""
        try:
            connection.request("POST", self._url.path, body=models.body(number), headers=HEADERS)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._count_failure(repr(error))
            return False
        if response.status != HTTPStatus.OK:
            self._count_failure(f"{response.status} {text[:200]!r}")
            return True
        self._count_answer(response.headers.get(VERSION_HEADER, "unknown"), number, text)
        return True

    def _count_answer(self, version: str, number: int, text: bytes) -> None:
        now = datetime.now(tz=UTC)
        is_wrong = not _is_answer_to(number, text)
        with self._changed:
            self.seen.answered += 1
            self.seen.wrong += is_wrong
            self.seen.by_version[version] += 1
            self.seen.last[version] = now
            if version not in self.seen.first:
                self.seen.first[version] = now
                self._changed.notify_all()

    def _count_failure(self, text: str) -> None:
        with self._changed:
            self.seen.failed += 1
            if len(self.seen.failures) < FAILURES_KEPT:
                self.seen.failures.append(text)

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._url.hostname or "127.0.0.1", self._url.port or 80, timeout=TIMEOUT_S)


def _is_answer_to(number: int, text: bytes) -> bool:
    try:
        return models.echo_of(text) == number
    except ValueError:
        return False
