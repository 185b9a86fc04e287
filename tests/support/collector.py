"""An OpenTelemetry collector for tests: takes OTLP/HTTP in JSON and keeps the spans.

It reads what the specification says (OTLP 1.x, "JSON Protobuf Encoding"), not what an exporter's library writes.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

POLL_S = 0.1
KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")


@dataclass(frozen=True)
class Seen:
    """One span, with the service that it is of; ids in hex."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    attributes: dict[str, Any]
    links: tuple[str, ...]


@dataclass
class Collector:
    """Listens on a free port of loopback; use as ``with``."""

    spans: list[Seen] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    @property
    def endpoint(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def wait_for(self, what: str, found: Callable[[list[Seen]], Any], *, deadline_s: float = 60) -> Any:
        """Return what ``found`` gives as soon as it is true; fail with what was seen instead."""
        with self._changed:
            held = self._changed.wait_for(lambda: found(self.spans), timeout=deadline_s)
        assert not self.faults, self.faults[0]
        if not held:
            shown = "\n".join(f"{span.trace_id} {span.service} {span.name}" for span in self.spans)
            raise AssertionError(f"no {what} within {deadline_s} s; seen:\n{shown}")
        return held

    def _take(self, request: dict[str, Any]) -> None:
        with self._changed:
            for group in request["resourceSpans"]:
                service = _attributes(group["resource"]["attributes"])["service.name"]
                self.spans += [_seen(service, span) for scope in group["scopeSpans"] for span in scope["spans"]]
            self._changed.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces", self.path
                assert self.headers["Content-Type"] == "application/json"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                try:
                    collector._take(json.loads(body))
                except (AssertionError, KeyError, ValueError) as error:
                    collector.faults.append(f"{error!r} in {body[:2000]!r}")
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


def _seen(service: str, span: dict[str, Any]) -> Seen:
    assert re.fullmatch(r"[0-9a-f]{32}", span["traceId"]), span
    assert re.fullmatch(r"[0-9a-f]{16}", span["spanId"]), span
    return Seen(
        service=service,
        name=span["name"],
        kind=KINDS[span["kind"]],
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId", ""),
        start_ns=int(span["startTimeUnixNano"]),
        attributes=_attributes(span.get("attributes", [])),
        links=tuple(link["traceId"] for link in span.get("links", [])),
    )


def _attributes(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return attributes by name; integers travel as text, since JSON's numbers are too short for them."""
    found: dict[str, Any] = {}
    for pair in pairs:
        ((kind, value),) = pair["value"].items()
        found[pair["key"]] = int(value) if kind == "intValue" else value
    return found
