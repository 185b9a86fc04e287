"""The event that tells of a retirement."""

from __future__ import annotations

from datetime import UTC, datetime

from tidegate.contracts.codec import Event, timed_event_id
from tidegate.core.tracing import current_traceparent
from tidegate.deployer.state import RetirementRecord
from tidegate.deployer.wire import retirement_message


def retirement_event(model: str, change: RetirementRecord, *, source: str, cause_id: str) -> Event:
    """Return the event of ``change``, which the command ``cause_id`` caused; it belongs to no version's story alone."""
    return Event(
        message=retirement_message(model, change),
        id=timed_event_id("RetirementChanged", model, change.sequence),
        source=source,
        time=datetime.fromtimestamp(change.time_s, tz=UTC),
        subject=model,
        correlation_id=cause_id,
        causation_id=cause_id,
        sequence=change.sequence,
        traceparent=current_traceparent(),
    )
