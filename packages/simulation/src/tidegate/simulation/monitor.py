"""The monitor's shell as a model: slices in, snapshots and findings out, around the real assembler and judges."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from google.protobuf.message import Message

from tidegate.contracts.codec import Event, derived_event_id, timed_event_id
from tidegate.contracts.names import parse_version
from tidegate.contracts.topics import PREDICTIONS, ROLLOUTS
from tidegate.monitor import batches, wire
from tidegate.monitor.judges import judge
from tidegate.monitor.judges.values import Batch
from tidegate.monitor.rollouts import Fit, ModelState, Rollout, RouteFacts
from tidegate.simulation.bus import Bus, Consumer
from tidegate.simulation.checker import Checker
from tidegate.simulation.world import Process, World
from tidegate.v1.monitoring_events_pb2 import MetricReport, PredictionBatch
from tidegate.v1.rollout_events_pb2 import RolloutStep

SOURCE: Final = "tidegate/monitor"
SLICE_S: Final = 1.5
REPORT_S: Final = 4.0
HOLD_S: Final = 2.0
STEP_REQUESTS_MIN: Final = 8
HELD_MAX: Final = 256
QUEUED_MAX: Final = 512
FINDING_TWICE: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A batch whose route no step has named yet."""

    event: Event
    message: PredictionBatch
    since_s: float


class Monitor(Process):
    """Assembles, publishes, judges; snapshots survive it (``snapshots`` is its compacted topic)."""

    def __init__(self, world: World, bus: Bus, checker: Checker) -> None:
        super().__init__(world, "monitor")
        self.bus = bus
        self.checker = checker
        self.snapshots: dict[str, ModelState] = {}
        self.consumer: Consumer | None = None
        self.counts_once = True
        self._assembler = batches.Assembler()
        self._models: dict[str, ModelState] = {}
        self._held: defaultdict[str, deque[Held]] = defaultdict(deque)
        self._sequences: dict[str, int] = {}
        self._queue: deque[Event] = deque()
        self._is_publishing = False
        self._is_judging = False

    def on_start(self) -> None:
        """Begin with the snapshots; requests that were being assembled are lost."""
        self._assembler = batches.Assembler()
        self._models = dict(self.snapshots)
        self._held = defaultdict(deque)
        self._sequences = {}
        self._queue = deque()
        self._is_publishing = False
        self._is_judging = False
        self.consumer = Consumer(self, self.bus, (ROLLOUTS.name, PREDICTIONS.name), self._handle)
        self.every(SLICE_S, self._cut)
        self.every(REPORT_S, self._report)

    def log(self, attempt: batches.Attempt) -> None:
        """Take one line of a proxy's log; nobody keeps it while the monitor is away."""
        if self.is_alive and not self.is_paused and not self.is_cut:
            self._assembler.add(attempt)

    def _next_sequence(self, model: str) -> int:
        number = max(int(self.clock_s() * 1_000_000), self._sequences.get(model, 0) + 1)
        self._sequences[model] = number
        return number

    def _cut(self) -> None:
        for part in self._assembler.close_slice():
            if len(self._queue) < QUEUED_MAX:
                event = self._batch_event(part)
                self.checker.evidence.on_slice(part, event.id)
                self._queue.append(event)
        self._publish()

    def _batch_event(self, part: batches.Slice) -> Event:
        key = part.key
        sequence = self._next_sequence(key.model)
        event_id = timed_event_id("PredictionBatch", f"{key.node_id}/{key.model}/{key.epoch}/{key.revision}", sequence)
        return Event(
            message=wire.to_batch_message(part),
            id=event_id,
            source=SOURCE,
            time=self.world.time(),
            subject=key.model,
            correlation_id=event_id,
            sequence=sequence,
        )

    def _publish(self) -> None:
        if self._is_publishing or not self._queue:
            return
        self._is_publishing = True
        event = self._queue[0]

        def sent() -> None:
            self._is_publishing = False
            self._queue.popleft()
            if self.world.chance(0.01):
                self.bus.append([event])  # a producer that was not told of success sends again
                self.world.count("monitor: batch sent twice")
            self._publish()

        self.bus.send(self, [event], sent)

    def _state(self, event: Event) -> ModelState:
        return self._models.get(event.subject) or ModelState(model=event.subject, partition=event.partition)

    def _handle(self, event: Event, done: Callable[[], None]) -> None:
        if self._is_judging:
            self.later(0.01, lambda: self._handle(event, done))
            return
        self._is_judging = True

        def finish() -> None:
            self._is_judging = False
            done()

        match event.message:
            case RolloutStep():
                self._handle_step(event, event.message, finish)
            case PredictionBatch():
                self._handle_batch(event, event.message, finish)
            case _:
                finish()

    def _handle_step(self, event: Event, message: RolloutStep, done: Callable[[], None]) -> None:
        before = self._state(event)
        after = before.after_step(wire.step_facts(event, message, step_requests_min=STEP_REQUESTS_MIN))
        if after is before:
            done()
            return

        def saved() -> None:
            self.snapshots[after.model] = after
            self._models[after.model] = after
            self._drain(after.model, done)

        self._save(saved)

    def _handle_batch(self, event: Event, message: PredictionBatch, done: Callable[[], None]) -> None:
        held = self._held[event.subject]
        if self._has_counted(self._state(event), event):
            done()
            return
        if all(one.event.id != event.id for one in held):
            held.append(Held(event=event, message=message, since_s=self.world.now_s))
        if len(held) > HELD_MAX:
            held.popleft()
        self._drain(event.subject, done)

    def _has_counted(self, state: ModelState, event: Event) -> bool:
        return self.counts_once and state.has_counted(event.offset, event.id)

    def _drain(self, model: str, done: Callable[[], None]) -> None:
        """Judge the held batches in order, up to the first one that must go on waiting for its route's step."""
        held = self._held[model]
        while held:
            first = held[0]
            state = self._state(first.event)
            fits = [(rollout, *rollout.fit(wire.route_of(first.message))) for rollout in state.rollouts]
            is_known = any(fit is Fit.KNOWN for _, fit, _ in fits)
            is_early = not fits or any(fit is Fit.NEWER for _, fit, _ in fits)
            if is_early and not is_known and first.since_s > self.world.now_s - HOLD_S:
                break
            wanted = Fit.KNOWN if is_known else Fit.NEWER
            watched = [(rollout, facts) for rollout, fit, facts in fits if fit is wanted]
            held.popleft()
            if watched and not self._has_counted(state, first.event):
                self._judge(state, first, watched, lambda: self._drain(model, done))
                return
        done()

    def _judge(
        self, state: ModelState, held: Held, watched: list[tuple[Rollout, RouteFacts]], then: Callable[[], None]
    ) -> None:
        event, message = held.event, held.message
        findings: list[Event] = []
        judged: list[tuple[Rollout, Batch]] = []
        after = state.after_batch(event.offset, event.id)
        for rollout, facts in watched:
            batch = wire.to_batch(
                event, message, candidate=rollout.candidate, stable=rollout.stable, concurrent=facts.concurrent
            )
            if not self.counts_once:
                batch = replace(batch, offset=rollout.judge.offset + 1)
            decision = judge.decide(rollout.judge, batch)
            self.checker.evidence.on_judged(rollout, decision)
            after = after.with_rollout(replace(rollout, judge=decision.state))
            judged.append((rollout, batch))
            names = {"rollout_id": rollout.rollout_id, "model": state.model, "candidate": rollout.candidate}
            messages: list[Message] = [wire.to_breach(breach, **names) for breach in decision.breaches]
            if decision.reached is not None:
                messages.append(wire.to_evidence_reached(decision.reached, **names))
            if messages:
                self.say("%s: %s", rollout.rollout_id, decision.reason)
            for one in messages:
                self.world.count(f"monitor: {one.DESCRIPTOR.name}")
            findings += [self._finding(event, rollout, one, len(findings) + n) for n, one in enumerate(messages)]

        def saved() -> None:
            self.snapshots[state.model] = after
            self._models[state.model] = after
            self.checker.evidence.on_counted(judged, event.id)
            then()

        # A crash between the findings and the snapshot decides the same again, under the same ids.
        if findings and self.world.chance(FINDING_TWICE):
            self.world.count("monitor: finding sent twice")
            findings *= 2
        self.bus.send(self, findings, lambda: self._save(saved))

    def _save(self, then: Callable[[], None]) -> None:
        if not self.bus.is_reachable(self):
            self.later(1.0, lambda: self._save(then))
            return
        self.later(self.world.between(0.001, 0.02), then)

    def _finding(self, cause: Event, rollout: Rollout, message: Message, number: int) -> Event:
        return Event(
            message=message,
            id=derived_event_id(message.DESCRIPTOR.name, cause.id, number),
            source=SOURCE,
            time=self.world.time(),
            subject=cause.subject,
            correlation_id=rollout.correlation_id,
            causation_id=cause.id,
            sequence=self._next_sequence(cause.subject),
        )

    def _report(self) -> None:
        """Report on each rollout under watch: the heartbeat that says that somebody watches."""
        if not self.bus.is_reachable(self):
            return
        self._drain_late()
        reports = []
        for state in self._models.values():
            for rollout in state.rollouts:
                sequence = self._next_sequence(state.model)
                message = MetricReport(
                    model=state.model, rollout_id=rollout.rollout_id, version=parse_version(rollout.candidate)
                )
                reports.append(
                    Event(
                        message=message,
                        id=timed_event_id("MetricReport", rollout.rollout_id, sequence),
                        source=SOURCE,
                        time=self.world.time(),
                        subject=state.model,
                        correlation_id=rollout.correlation_id,
                        sequence=sequence,
                    )
                )
        self.bus.append(reports)

    def _drain_late(self) -> None:
        late_s = self.world.now_s - HOLD_S
        model = next((model for model, held in self._held.items() if held and held[0].since_s < late_s), None)
        if model is None or self._is_judging:
            return
        self._is_judging = True

        def finish() -> None:
            self._is_judging = False

        self._drain(model, finish)
