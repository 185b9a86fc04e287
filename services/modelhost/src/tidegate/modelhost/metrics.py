"""The model host's own metrics. The label ``server`` is bounded by ``servers_max``: a server that is gone has none."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from tidegate.core.metrics import DURATION_BUCKETS_S
from tidegate.modelhost.lifecycle import Server, State

SERVERS: Final = Gauge("tidegate_modelhost_servers", "Model servers by state.", ["state"])
STARTS: Final = Counter("tidegate_modelhost_starts_total", "Processes of model servers that were started.")
LAUNCH_FAILURES: Final = Counter(
    "tidegate_modelhost_launch_failures_total", "Model servers that could not be started, by reason code.", ["code"]
)
CRASHES: Final = Counter(
    "tidegate_modelhost_crashes_total",
    "Processes that ended though nobody asked, or were ended because they did not get ready, by reason code.",
    ["code"],
)
LOAD_SECONDS: Final = Histogram(
    "tidegate_modelhost_load_seconds", "Time from a start to ready.", buckets=DURATION_BUCKETS_S
)
RESIDENT: Final = Gauge(
    "tidegate_modelhost_server_resident_bytes", "Resident memory of all processes of a model server.", ["server"]
)


def show_servers(servers: Iterable[Server]) -> None:
    """Show how many servers are in which state."""
    states = Tally(server.state for server in servers)
    for state in State:
        SERVERS.labels(state.value).set(states[state])


def note_change(before: Server, after: Server) -> None:
    """Count what has happened to a server."""
    if before.process is not None and after.process is None and after.reason is not None:
        CRASHES.labels(after.reason.code).inc()
    if after.process is None:
        RESIDENT.remove(after.spec.server_id)
    if after.state is State.READY and before.state is not State.READY:
        LOAD_SECONDS.observe(after.load_time_ms / 1000)
