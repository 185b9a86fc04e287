"""Which trace a decision belongs to: that of the event that Kafka brought, else that of the rollout.

What a rollout's later steps follow from is kept with its state: as the ``traceparent`` header of the snapshot's record.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

from structlog.contextvars import bound_contextvars

from tidegate.contracts.codec import Event
from tidegate.core.clock import utc_now
from tidegate.core.telemetry import handling
from tidegate.core.tracing import HEADER, TraceMemory, current_traceparent
from tidegate.deployer.state import Decision, ModelState, Rollout, StepRecord
from tidegate.v1.events_pb2 import ModelBlessed


class RolloutTraces:
    """The traces of one partition's rollouts."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._memory = TraceMemory()

    @contextmanager
    def deciding(self, sent: Event | None, topic: str, state: ModelState, decision: Decision) -> Iterator[None]:
        """Tell of a decision within its span and with its correlation id; ``sent`` is what Kafka brought, if it did.

        What the proxies, the model host or the clock say gets a span only where it moves the rollout.
        """
        rollout = decision.steps[0].rollout if decision.steps else decision.state.rollout or state.rollout
        with ExitStack() as scope:
            if sent is not None:
                scope.enter_context(handling(sent, topic, self._group))
            elif rollout is not None:
                scope.enter_context(bound_contextvars(correlation_id=rollout.correlation_id))
            if rollout is not None and decision.steps and not current_traceparent():
                scope.enter_context(self._memory.following("decide", rollout.correlation_id))
            if sent is not None and isinstance(sent.message, ModelBlessed):
                # Its rollout may wait in a queue until another one has ended.
                self._memory.learn(sent.correlation_id, current_traceparent(), utc_now())
            if rollout is not None and decision.steps:
                # What moved the rollout is what its next step follows from.
                self._memory.learn(rollout.correlation_id, current_traceparent(), utc_now())
            yield

    def of_step(self, decision: Decision, step: StepRecord) -> str:
        """Return what a step of ``decision`` follows from, within :meth:`deciding`.

        The end of one rollout may begin the next one, which belongs to its own version's trace.
        """
        if step.rollout.correlation_id == decision.steps[0].rollout.correlation_id:
            return current_traceparent()
        return self._memory.traceparent(step.rollout.correlation_id)

    def traceparent(self, rollout: Rollout | None) -> str:
        """Return what the rollout's later steps follow from, or ""."""
        return "" if rollout is None else self._memory.traceparent(rollout.correlation_id)

    def restore(self, state: ModelState, record: Any) -> None:
        """Remember what the record of a snapshot says."""
        if state.rollout is not None:
            carried = dict(record.headers).get(HEADER, b"").decode()
            time = datetime.fromtimestamp(record.timestamp / 1000, tz=UTC)
            self._memory.learn(state.rollout.correlation_id, carried, time)
