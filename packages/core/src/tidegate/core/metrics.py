"""Prometheus metrics that every service has, and their HTTP endpoint.

What several services have keeps one name (``tidegate_events_...``, ``tidegate_grpc_...``): the scrape's ``job`` tells
them apart. What only one has is declared in its own ``metrics.py`` as ``tidegate_<service>_...``. The client library
adds the process's own (CPU, resident memory, open files).
"""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime
from time import monotonic
from typing import Final
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import Counter, Gauge, Histogram, start_http_server

from tidegate.core.clock import utc_now
from tidegate.core.errors import Unavailable
from tidegate.core.settings import ServiceSettings

# Names of models come from outside: beyond so many, a process counts the rest together.
MODEL_LABELS_MAX: Final = 200
# No legal name of a model.
OTHER: Final = "(other)"
# From a lookup to a validation.
DURATION_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# From "just now" to "since yesterday".
AGE_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 21_600, 86_400)

EVENTS_CONSUMED: Final = Counter("tidegate_events_consumed_total", "Events whose handler returned.", ["topic"])
EVENTS_PRODUCED: Final = Counter(
    "tidegate_events_produced_total", "Messages that the broker has acknowledged.", ["topic"]
)
EVENTS_DEAD_LETTERED: Final = Counter(
    "tidegate_events_dead_lettered_total", "Messages put on the dead-letter topic, by reason code.", ["topic", "code"]
)
BATCHES_UNREADABLE: Final = Counter(
    "tidegate_consumer_unreadable_batches_total",
    "Batches that could not be decoded and were passed over.",
    ["topic", "codec"],
)
RETRIES: Final = Counter(
    "tidegate_retries_total",
    "Tries that failed and were made again; reason is unavailable or conflict.",
    ["operation", "reason"],
)
EVENT_HANDLING: Final = Histogram(
    "tidegate_event_handling_seconds",
    "Time from taking an event to the end of its handler, retries included.",
    ["topic"],
    buckets=DURATION_BUCKETS_S,
)
EVENT_AGE: Final = Histogram(
    "tidegate_event_age_seconds",
    "Time from an event's ce_time to the begin of its handling: how far behind the consumer is.",
    ["topic"],
    buckets=AGE_BUCKETS_S,
)
CONSUMER_BEHIND: Final = Gauge(
    "tidegate_consumer_behind_seconds",
    "Age (by ce_time) of the oldest event that is being handled at the moment of the scrape; 0 = none is.",
    ["topic"],
)
GRPC_REQUESTS: Final = Counter("tidegate_grpc_requests_total", "gRPC calls that have ended.", ["method", "code"])
GRPC_SECONDS: Final = Histogram(
    "tidegate_grpc_request_seconds", "Duration of unary gRPC calls.", ["method"], buckets=DURATION_BUCKETS_S
)
GRPC_REFUSED: Final = Counter(
    "tidegate_grpc_refused_total",
    "Calls that were refused for who called (caller is empty where that is not known), by reason code.",
    ["method", "caller", "code"],
)
GRPC_STREAMS: Final = Gauge("tidegate_grpc_streams", "gRPC streams that are open.", ["method"])

log = structlog.get_logger(__name__)


def topic_label(full_name: str) -> str:
    """Return the name of a topic without the prefix of its environment."""
    return full_name.rpartition(".")[2]


class BoundedLabels:
    """Bounds a label that comes from outside: the first ``limit`` names keep themselves, all others share OTHER."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        """Return the label of ``name``."""
        if name in self._known:
            return name
        if len(self._known) >= self._limit:
            return OTHER
        self._known.add(name)
        return name


MODEL_LABELS: Final = BoundedLabels(MODEL_LABELS_MAX)


class Handling:
    """Measures how the events of one topic are handled; used in one event loop, read by the scrape's thread."""

    def __init__(self, full_name: str) -> None:
        self._topic = topic_label(full_name)
        self._in_hand: dict[Hashable, tuple[datetime, float]] = {}
        self._oldest: datetime | None = None
        CONSUMER_BEHIND.labels(self._topic).set_function(self._behind_s)

    def take(self, place: Hashable, time: datetime) -> None:
        """Note that the event of ``time`` (ce_time), known by its ``place``, is being handled."""
        EVENT_AGE.labels(self._topic).observe(_age_s(time))
        self._in_hand[place] = (time, monotonic())
        self._look()

    def done(self, place: Hashable) -> None:
        """Note that the event at ``place`` is handled."""
        taken = self._in_hand.get(place)
        if taken is not None:
            EVENT_HANDLING.labels(self._topic).observe(monotonic() - taken[1])
            EVENTS_CONSUMED.labels(self._topic).inc()
            self.drop(place)

    def drop(self, place: Hashable) -> None:
        """Forget the event at ``place``: it was set aside, or is somebody else's now."""
        self._in_hand.pop(place, None)
        self._look()

    def clear(self) -> None:
        """Forget all events in hand: others handle them now."""
        self._in_hand.clear()
        self._look()

    def _look(self) -> None:
        # Events are taken in order, so the first one is the oldest.
        self._oldest = next((time for time, _ in self._in_hand.values()), None)

    def _behind_s(self) -> float:
        oldest = self._oldest
        return 0.0 if oldest is None else _age_s(oldest)


def _age_s(time: datetime) -> float:
    return max(0.0, (utc_now() - time).total_seconds())


def serve_metrics(settings: ServiceSettings) -> WSGIServer | None:
    """Serve ``/metrics`` in a thread of its own; nothing happens without ``metrics_port``.

    Raises:
        Unavailable: The port is taken.

    """
    if settings.metrics_port is None:
        return None
    host, port = settings.metrics_host, settings.metrics_port
    try:
        server, _ = start_http_server(port, addr=host)
    except OSError as error:
        raise Unavailable(f"cannot serve metrics on {host}:{port}: {error}", code="PORT_TAKEN") from error
    log.info("serving metrics", host=host, port=server.server_port)
    return server
