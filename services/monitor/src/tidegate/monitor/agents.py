"""The judging shell: rollouts and predictions in, evidence and heartbeats out.

Order for each batch: decide, publish the findings, save the snapshot, and only then let faust commit. A crash in
between decides the same again from the last snapshot, and gives the same events with the same ids.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

import numpy as np
import structlog
from google.protobuf.message import Message
from structlog.contextvars import bound_contextvars

from tidegate.contracts.codec import Event, derived_event_id, timed_event_id
from tidegate.contracts.names import parse_version
from tidegate.core.bus import EventProducer
from tidegate.core.clock import utc_now
from tidegate.core.errors import InvalidInput, Unavailable
from tidegate.core.tracing import TraceMemory
from tidegate.monitor import wire
from tidegate.monitor.judges.evidence import evidence
from tidegate.monitor.judges.judge import decide
from tidegate.monitor.judges.latency import Latencies
from tidegate.monitor.judges.values import Batch, Kind
from tidegate.monitor.metrics import WatchGauges, count_batch, count_finding
from tidegate.monitor.past import Past
from tidegate.monitor.publishing import SOURCE, Sequences
from tidegate.monitor.rollouts import Fit, ModelState, Rollout, RouteFacts
from tidegate.monitor.settings import MonitorSettings
from tidegate.monitor.store import SnapshotStore
from tidegate.v1.monitoring_events_pb2 import MetricReport, PredictionBatch
from tidegate.v1.rollout_events_pb2 import Phase, RolloutStep

HELD_BATCHES_MAX: Final = 256
_FINDINGS: Final = {"MetricBreach": "breach", "EvidenceReached": "evidence_reached"}

log = structlog.get_logger(__name__)


@dataclass(kw_only=True, slots=True)
class Window:
    """What a rollout's candidate did since the last report."""

    start: datetime
    requests: int = 0
    errors: int = 0
    log_gap: int = 0
    latencies_us: list[Latencies] = field(default_factory=list)

    def add(self, batch: Batch, dropped: int) -> None:
        """Count a batch."""
        self.requests += batch.candidate.requests
        self.errors += batch.candidate.failures if batch.concurrent else batch.candidate.broken
        self.log_gap += dropped
        self.latencies_us.append(batch.candidate.latencies_us)

    def latencies_ms(self) -> tuple[float, float, float]:
        """Return p50, p90 and p99 in milliseconds; zeros without a good answer."""
        together = np.concatenate([*self.latencies_us, np.array([], dtype=np.uint64)])
        if len(together) == 0:
            return 0.0, 0.0, 0.0
        p50, p90, p99 = (float(value) / 1000.0 for value in np.quantile(together, (0.5, 0.9, 0.99)))
        return p50, p90, p99


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A batch whose route no step has named yet; ``since`` is the loop's time."""

    event: Event
    message: PredictionBatch
    since: float


class Judging:
    """Keeps one state a model, and lets nothing but whole, saved decisions change it."""

    def __init__(
        self, *, settings: MonitorSettings, producer: EventProducer, store: SnapshotStore, sequences: Sequences
    ) -> None:
        self._settings = settings
        self._producer = producer
        self._store = store
        self._sequences = sequences
        self._models: dict[str, ModelState] = {}
        self._held: defaultdict[str, deque[Held]] = defaultdict(deque)
        self._windows: dict[tuple[str, str], Window] = {}
        self._gauges = WatchGauges()
        self._past = Past()
        self._traces = TraceMemory()
        self._window_start = utc_now()
        self._loaded: set[int] = set()
        self._lock = asyncio.Lock()

    async def load(self, partitions: Iterable[int]) -> None:
        """Load the snapshots of ``partitions`` that are not loaded yet.

        Raises:
            Unavailable: The broker can't be read.

        """
        async with self._lock:
            for partition in partitions:
                await self._load(partition)

    async def forget(self, partitions: Iterable[int]) -> None:
        """Forget ``partitions``: another monitor has them now."""
        gone = set(partitions)
        async with self._lock:
            self._loaded -= gone
            for model in [state.model for state in self._models.values() if state.partition in gone]:
                del self._models[model]
                self._held.pop(model, None)

    async def handle(self, event: Event) -> None:
        """Handle one event of ``rollouts`` or ``predictions``.

        Raises:
            InvalidInput: A step says what this release does not know.
            Unavailable: The broker is away; nothing has changed.

        """
        async with self._lock:
            await self._load(event.partition)
            match event.message:
                case RolloutStep():
                    await self._handle_step(event, event.message)
                case PredictionBatch():
                    await self._handle_batch(event, event.message)
                case _:
                    return

    async def report(self) -> None:
        """Publish a report on each active rollout: the heartbeat that says that somebody watches."""
        async with self._lock:
            for model in list(self._held):
                await self._drain(model)
            reports = [self._report(state, rollout) for state in self._models.values() for rollout in state.rollouts]
            await self._producer.publish_all(reports)
            self._gauges.keep_only(
                [state.model for state in self._models.values() if state.rollouts], rollouts=len(reports)
            )
            self._windows.clear()
            self._window_start = utc_now()

    async def report_for_ever(self) -> None:
        """Report each ``report_s``; a broker that is away costs reports, nothing else."""
        while True:
            await asyncio.sleep(self._settings.report_s)
            try:
                await self.report()
            except Unavailable as error:
                log.warning("could not report", error=str(error))

    async def _load(self, partition: int) -> None:
        if partition in self._loaded:
            return
        for snapshot in await self._store.load(partition):
            state = snapshot.state
            self._models[state.model] = state
            if state.rollouts:
                self._traces.learn(state.rollouts[-1].correlation_id, snapshot.traceparent, snapshot.time)
        self._loaded.add(partition)

    def _state(self, event: Event) -> ModelState:
        return self._models.get(event.subject) or ModelState(model=event.subject, partition=event.partition)

    async def _handle_step(self, event: Event, message: RolloutStep) -> None:
        if message.phase not in Phase.values():
            why = f"phase {message.phase} is none that this release knows"
            raise InvalidInput(why, code="EVENT_NOT_UNDERSTOOD", field="phase")
        facts = wire.step_facts(event, message, step_requests_min=self._settings.step_requests_min)
        before = self._state(event)
        after = before.after_step(facts)
        if after is before:
            return
        known = {one.rollout_id for one in before.rollouts}
        if facts.rollout_id not in known and any(one.rollout_id == facts.rollout_id for one in after.rollouts):
            after = self._past.taught(after, facts.rollout_id)
        self._traces.learn(facts.correlation_id, event.traceparent, event.time)
        await self._save(after)
        self._models[after.model] = after
        log.info(
            "rollout step", model=after.model, rollout_id=facts.rollout_id, phase=facts.phase, route=facts.route.route
        )
        await self._drain(after.model)

    async def _handle_batch(self, event: Event, message: PredictionBatch) -> None:
        held = self._held[event.subject]
        if self._state(event).has_counted(event.offset, event.id):
            return
        # A try that failed half-way has left the batch in the queue.
        if all(one.event.id != event.id for one in held):
            held.append(Held(event=event, message=message, since=asyncio.get_running_loop().time()))
        if len(held) > HELD_BATCHES_MAX:
            lost = held.popleft().message
            log.warning("too many batches wait for their step, the oldest is dropped", model=lost.model)
        await self._drain(event.subject)

    async def _drain(self, model: str) -> None:
        """Judge the held batches in order, up to the first one that must go on waiting for its route's step."""
        held = self._held[model]
        patience_end = asyncio.get_running_loop().time() - self._settings.hold_s
        while held:
            first = held[0]
            state = self._state(first.event)
            fits = [(rollout, *rollout.fit(wire.route_of(first.message))) for rollout in state.rollouts]
            is_known = any(fit is Fit.KNOWN for _, fit, _ in fits)
            is_early = not fits or any(fit is Fit.NEWER for _, fit, _ in fits)
            if is_early and not is_known and first.since > patience_end:
                return
            # After the wait a newer route counts as the newest step's: comparing needs no weights.
            wanted = Fit.KNOWN if is_known else Fit.NEWER
            await self._judge(state, first, [(rollout, facts) for rollout, fit, facts in fits if fit is wanted])
            held.popleft()

    async def _judge(self, state: ModelState, held: Held, watched: list[tuple[Rollout, RouteFacts]]) -> None:
        event, message = held.event, held.message
        if not watched and not state.rollouts:
            self._past.add(event, message)
        if not watched or state.has_counted(event.offset, event.id):
            return
        findings: list[Event] = []
        counted: list[tuple[Rollout, Batch]] = []
        after = state.after_batch(event.offset, event.id)
        for rollout, facts in watched:
            batch = wire.to_batch(
                event,
                message,
                candidate=rollout.candidate,
                stable=rollout.stable,
                concurrent=facts.concurrent,
            )
            decision = decide(rollout.judge, batch)
            after = after.with_rollout(replace(rollout, judge=decision.state))
            counted.append((rollout, batch))
            names = {"rollout_id": rollout.rollout_id, "model": state.model, "candidate": rollout.candidate}
            messages: list[Message] = [wire.to_breach(breach, **names) for breach in decision.breaches]
            if decision.reached is not None:
                messages.append(wire.to_evidence_reached(decision.reached, **names))
            if messages:
                findings += self._findings(event, rollout, messages, decision.reason, first=len(findings))
        await self._producer.publish_all(findings)
        await self._save(after)
        self._models[state.model] = after
        for finding in findings:
            count_finding(_FINDINGS[finding.type], str(getattr(finding.message, "guard", "")))
        for rollout, batch in counted:
            count_batch(batch)
            if batch.candidate.requests:
                self._gauges.seen(state.model)
            self._window(state.model, rollout.rollout_id).add(batch, message.dropped_count)

    async def _save(self, state: ModelState) -> None:
        """Save ``state``, with what its newest rollout's findings follow from."""
        newest = state.rollouts[-1].correlation_id if state.rollouts else ""
        await self._store.save(state, traceparent=self._traces.traceparent(newest))

    def _findings(
        self, cause: Event, rollout: Rollout, messages: list[Message], reason: str, *, first: int
    ) -> list[Event]:
        """Return the events of what was found: they belong to the rollout's story, not to the batch's."""
        with (
            self._traces.following("judge", rollout.correlation_id) as traceparent,
            bound_contextvars(correlation_id=rollout.correlation_id),
        ):
            log.info("finding", rollout_id=rollout.rollout_id, reason=reason)
            return [
                Event(
                    message=message,
                    id=derived_event_id(message.DESCRIPTOR.name, cause.id, number),
                    source=SOURCE,
                    time=utc_now(),
                    subject=cause.subject,
                    correlation_id=rollout.correlation_id,
                    causation_id=cause.id,
                    sequence=self._sequences.next(cause.subject),
                    traceparent=traceparent,
                )
                for number, message in enumerate(messages, first)
            ]

    def _window(self, model: str, rollout_id: str) -> Window:
        return self._windows.setdefault((model, rollout_id), Window(start=self._window_start))

    def _report(self, state: ModelState, rollout: Rollout) -> Event:
        window = self._window(state.model, rollout.rollout_id)
        rules = rollout.judge.rules
        kind = Kind.CONCURRENT if rollout.newest.concurrent else Kind.ABSOLUTE
        guards = [
            evidence(rules, guard, known, kind) for guard, known in zip(rules.guards, rollout.judge.guards, strict=True)
        ]
        self._gauges.show(state.model, guards)
        p50, p90, p99 = window.latencies_ms()
        now = utc_now()
        message = MetricReport(
            model=state.model,
            rollout_id=rollout.rollout_id,
            version=parse_version(rollout.candidate),
            window_start=wire.from_datetime(window.start),
            window_end=wire.from_datetime(now),
            requests=window.requests,
            errors=window.errors,
            latency_ms_p50=p50,
            latency_ms_p90=p90,
            latency_ms_p99=p99,
            guards=[wire.to_evidence(one) for one in guards],
            weight_millionths=rollout.newest.weight_millionths,
            log_gap=window.log_gap,
        )
        sequence = self._sequences.next(state.model)
        return Event(
            message=message,
            id=timed_event_id("MetricReport", rollout.rollout_id, sequence),
            source=SOURCE,
            time=now,
            subject=state.model,
            correlation_id=rollout.correlation_id,
            sequence=sequence,
        )
