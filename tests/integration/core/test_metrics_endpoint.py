"""The endpoint that Prometheus scrapes."""

from __future__ import annotations

import re
import urllib.request

import pytest

from tidegate.core.errors import Unavailable
from tidegate.core.metrics import serve_metrics
from tidegate.core.settings import ServiceSettings


def read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return answer.read().decode()


def test_metrics_are_served_with_those_of_the_process():
    server = serve_metrics(ServiceSettings(metrics_port=0))
    try:
        text = read(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
    assert re.search(r"^process_resident_memory_bytes \d", text, re.MULTILINE)
    assert re.search(r"^process_cpu_seconds_total \d", text, re.MULTILINE)
    assert "# TYPE tidegate_event_handling_seconds histogram" in text


def test_nothing_is_served_unless_asked():
    assert serve_metrics(ServiceSettings()) is None


def test_taken_port_is_told():
    first = serve_metrics(ServiceSettings(metrics_port=0))
    try:
        with pytest.raises(Unavailable, match=f"cannot serve metrics on 127.0.0.1:{first.server_port}") as raised:
            serve_metrics(ServiceSettings(metrics_port=first.server_port))
    finally:
        first.shutdown()
        first.server_close()
    assert raised.value.code == "PORT_TAKEN"
