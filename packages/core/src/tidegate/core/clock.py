"""The one place where shells read the clock; pure cores get time inside their events."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(tz=UTC)
