"""Every line of a service is one JSON object that says whose it is, whoever wrote it."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging, threading, warnings
import structlog
from tidegate.core.telemetry import configure_logs

configure_logs("registry", "INFO")
log = structlog.get_logger("ours")
log.debug("hidden")
with structlog.contextvars.bound_contextvars(correlation_id="story-1", model="m"):
    log.info("handled", count=1)
    logging.getLogger("library").warning("odd %s", "thing")
log.info("after")
threading.Thread(target=lambda: logging.getLogger("library").error("in a thread")).start()
for noisy in ("aiokafka.conn", "faust.worker", "mode", "kafka.client", "asyncio"):
    logging.getLogger(noisy).error("connection failed")
logging.getLogger("opentelemetry.sdk").warning("no collector")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("library").exception("bad")
"""


def test_lines_are_json_and_carry_what_is_bound_and_noise_is_left_out():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines[:3]] == ["handled", "odd thing", "after"]
    assert {line["event"] for line in lines[3:]} == {"in a thread", "bad"}
    assert all(line["service"] == "registry" and line["timestamp"].endswith("Z") for line in lines)
    assert [line["level"] for line in lines[:3]] == ["info", "warning", "info"]
    assert [line.get("correlation_id") for line in lines[:3]] == ["story-1", "story-1", None]
    assert lines[1]["logger"] == "library"
    assert "ZeroDivisionError" in next(line["exception"] for line in lines if line["event"] == "bad")
