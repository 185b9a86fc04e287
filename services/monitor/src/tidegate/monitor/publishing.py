"""From the access log to the topic ``predictions``: cut slices, publish them in order, in bounded memory."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from tidegate.contracts.codec import Event, timed_event_id
from tidegate.core.bus import EventProducer
from tidegate.core.clock import utc_now
from tidegate.core.streams import retrying
from tidegate.monitor.batches import Assembler, Slice
from tidegate.monitor.metrics import LOG_GAP
from tidegate.monitor.wire import to_batch_message

SOURCE: Final = "tidegate/monitor"
QUEUED_SLICES_MAX: Final = 512
PUBLISH_TOGETHER_MAX: Final = 64

log = structlog.get_logger(__name__)


class Sequences:
    """Numbers that rise per model, also across restarts: microseconds of the clock, or one more than the last."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def next(self, model: str) -> int:
        """Return the next number of ``model``."""
        now_us = int(utc_now().timestamp() * 1_000_000)
        number = max(now_us, self._last.get(model, 0) + 1)
        self._last[model] = number
        return number


class PredictionPublisher:
    """Publishes what the assembler has gathered, each ``slice_s``; slices that can't be kept are counted as dropped."""

    def __init__(self, *, assembler: Assembler, producer: EventProducer, sequences: Sequences, slice_s: float) -> None:
        self._assembler = assembler
        self._producer = producer
        self._sequences = sequences
        self._slice_s = slice_s
        self._queue: asyncio.Queue[Event] = asyncio.Queue(QUEUED_SLICES_MAX)

    async def cut_slices(self) -> None:
        """Cut a slice each ``slice_s``, for ever."""
        while True:
            await asyncio.sleep(self._slice_s)
            self.cut()

    def cut(self) -> None:
        """Put the complete requests of now into the queue."""
        for part in self._assembler.close_slice():
            try:
                self._queue.put_nowait(self._event(part))
                LOG_GAP.inc(part.dropped)
            except asyncio.QueueFull:
                lost = len(part.rows) + part.dropped
                self._assembler.add_dropped(part.key, lost)
                log.warning("too many batches wait for the broker, a batch is dropped", model=part.key.model, lost=lost)

    async def publish_slices(self) -> None:
        """Publish the queued batches in order, for ever; waits for a broker that is away."""
        while True:
            events = [await self._queue.get()]
            while len(events) < PUBLISH_TOGETHER_MAX and not self._queue.empty():
                events.append(self._queue.get_nowait())
            await self._publish(events)

    async def publish_rest(self) -> None:
        """Cut a last slice and publish all that waits."""
        self.cut()
        events = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        if events:
            await self._publish(events)

    async def _publish(self, events: list[Event]) -> None:
        await retrying(lambda: self._producer.publish_all(events), what="predictions")

    def _event(self, part: Slice) -> Event:
        key = part.key
        sequence = self._sequences.next(key.model)
        event_id = timed_event_id("PredictionBatch", f"{key.node_id}/{key.model}/{key.epoch}/{key.revision}", sequence)
        return Event(
            message=to_batch_message(part),
            id=event_id,
            source=SOURCE,
            time=utc_now(),
            subject=key.model,
            correlation_id=event_id,
            sequence=sequence,
        )
