"""The registry's own metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Counter, Gauge

from tidegate.core.errors import AlreadyExists
from tidegate.registry.intake.rejection import Rejected

REGISTRATIONS: Final = Counter(
    "tidegate_registry_registrations_total",
    "Registrations answered with a version, by change: FIRST, MAJOR, MINOR, PIPELINE, or DUPLICATE.",
    ["change"],
)
REJECTIONS: Final = Counter(
    "tidegate_registry_rejections_total", "Reasons for which registrations were refused, by reason code.", ["code"]
)
OUTBOX_EVENTS: Final = Gauge("tidegate_registry_outbox_events", "Events that are committed and not published yet.")
OUTBOX_AGE: Final = Gauge(
    "tidegate_registry_outbox_age_seconds", "Age of the oldest event that is committed and not published yet."
)

# A counter that begins at 1 has not increased for Prometheus: what may happen stands there with 0.
for _change in ("FIRST", "MAJOR", "MINOR", "PIPELINE", "DUPLICATE"):
    REGISTRATIONS.labels(_change)


@contextmanager
def rejections_counted() -> Iterator[None]:
    """Count a registration that the block refuses."""
    try:
        yield
    except Rejected as error:
        for reason in error.reasons:
            REJECTIONS.labels(reason.code).inc()
        raise
    except AlreadyExists as error:
        REJECTIONS.labels(error.code).inc()
        raise
