"""The deployer's shell on Kafka: each partition has one owner, and each decision is one transaction.

A transaction holds the new state, the route table, the steps and the input offsets. The partition's
``transactional.id`` fences a predecessor. Whatever fails in between ends the process: the next owner reads what was
committed and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from google.protobuf.message import Message

from tidegate.contracts.codec import PROTOBUF, Event, Record, derived_event_id, encode, timed_event_id
from tidegate.contracts.topics import ROLLOUT_STATE, TOPIC_BY_MESSAGE
from tidegate.core.in_hand import InHand, Place
from tidegate.core.kafka_access import client_options
from tidegate.core.kafka_consumer import committed_consumer
from tidegate.core.metrics import EVENTS_PRODUCED
from tidegate.core.settings import KafkaSettings
from tidegate.core.tracing import current_traceparent, sending
from tidegate.deployer import events as core
from tidegate.deployer import wire
from tidegate.deployer.hosts import Seen, Wanted, wanted_of
from tidegate.deployer.metrics import DECISIONS, STATE_GAUGES, STEPS, TRANSACTION_SECONDS, AckTimes
from tidegate.deployer.retirement_events import retirement_event
from tidegate.deployer.rollout import decide
from tidegate.deployer.state import Decision, ModelState
from tidegate.deployer.tracing import RolloutTraces
from tidegate.v1.rollout_events_pb2 import Phase, RolloutState, RolloutStep, RouteApplied, RouteTable

SOURCE: Final = "tidegate/deployer"
# What a deployer's proxies say about routes that another deployer owns.
PROXIES_SOURCE: Final = "tidegate/deployer/proxies"
RETRY_BACKOFF_MS: Final = 5
BATCH_MAX: Final = 100
QUEUE_MAX: Final = 10_000
OFFSETS_LAZY_S: Final = 2.0
# As long as the broker itself lets a transaction live; whoever waits longer begins anew.
COMMIT_WITHIN_S: Final = 60.0
TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)
LOAD_TIMEOUT_MS: Final = 1_000

# With the time of a decision of this process's own; None for a table that was read.
ApplyRoute = Callable[[RouteTable, datetime | None], None]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing that reached a partition: an event for the core, or what the proxies said.

    ``sent`` is what Kafka brought, if it did, and ``source`` and ``offset`` say where it stood.
    """

    model: str
    event: core.Event | None
    cause_id: str = ""
    correlation_id: str = ""
    applied: RouteApplied | None = None
    source: TopicPartition | None = None
    offset: int = -1
    sent: Event | None = None

    @property
    def place(self) -> Place | None:
        """Where Kafka had it; None for what came from elsewhere."""
        if self.source is None:
            return None
        return Place(topic=self.source.topic, partition=self.source.partition, offset=self.offset)


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What a batch of items leads to."""

    messages: list[Event] = field(default_factory=list)
    states: dict[str, ModelState] = field(default_factory=dict)
    routes: dict[str, tuple[RouteTable, datetime]] = field(default_factory=dict)


class PartitionWorker:
    """Owns one partition: the states of its models, and the producer that no other may use at the same time."""

    def __init__(
        self,
        *,
        partition: int,
        kafka: KafkaSettings,
        group: str,
        in_hand: InHand,
        apply_route: ApplyRoute,
        wake_host: Callable[[], None],
        on_handled: Callable[[TopicPartition, int], None] = lambda _place, _offset: None,
    ) -> None:
        self.partition = partition
        self._kafka = kafka
        self._group = group
        self._in_hand = in_hand
        self._apply_route = apply_route
        self._wake_host = wake_host
        self._on_handled = on_handled
        self._ack_times = AckTimes()
        self._traces = RolloutTraces(group)
        self._queue: asyncio.Queue[Item] = asyncio.Queue(QUEUE_MAX)
        self._states: dict[str, ModelState] = {}
        # What is true for others: a decision under way may never be.
        self._committed: dict[str, ModelState] = {}
        self._offsets: dict[TopicPartition, int] = {}
        self._offsets_since_s = 0.0
        self._producer = AIOKafkaProducer(
            **client_options(kafka),
            transactional_id=f"{group}-{partition}",
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )

    async def start(self) -> None:
        """Fence the predecessor, load what it committed, begin a new epoch of its routes."""
        await self._producer.start()
        self._states = await self._load()
        self._committed = dict(self._states)
        STATE_GAUGES.show(self._states)
        log.info("partition taken", partition=self.partition, models=sorted(self._states))
        for model in self._states:
            taken = core.TakenOver(time_s=_now_s(), cause=f"partition {self.partition} taken over")
            self._queue.put_nowait(Item(model=model, event=taken))

    async def stop(self) -> None:
        """Give the partition up; what waits comes again to whoever has it next."""
        while not self._queue.empty():
            # So that whoever waits to put something in does not wait for ever.
            self._queue.get_nowait()
        STATE_GAUGES.forget([*self._states])
        await self._producer.stop()

    async def put(self, item: Item) -> None:
        """Hand one item to the worker; waits while its queue is full."""
        await self._queue.put(item)

    def put_now(self, item: Item) -> None:
        """Hand one item to the worker from a callback."""
        self._queue.put_nowait(item)

    def owns(self, model: str) -> bool:
        """Say whether the worker decides about ``model``."""
        return model in self._states

    def wanted(self) -> list[Wanted]:
        """Return the servers that shall run for the models of this partition, by what is committed."""
        return [one for state in self._committed.values() for one in wanted_of(state)]

    def tick(self) -> None:
        """Let time enter the models that have something running, unless more waits than can be decided in time."""
        if self._queue.qsize() >= QUEUE_MAX // 2:
            return
        for model, state in self._states.items():
            if state.rollout is not None:
                self._queue.put_nowait(Item(model=model, event=core.Ticked(time_s=_now_s())))

    def see(self, seen: Seen) -> None:
        """Let the core know how a server is."""
        event = core.ServerChanged(
            time_s=_now_s(),
            cause=f"model host: {seen.model}@{seen.number} {_told(seen)}",
            number=seen.number,
            endpoint=seen.endpoint,
            ready=seen.ready,
            failure=seen.failure,
            waiting=seen.waiting,
        )
        self._queue.put_nowait(Item(model=seen.model, event=event))

    async def run(self) -> None:
        """Decide about items, batch by batch, until cancelled."""
        while True:
            items = [await self._queue.get()]
            while not self._queue.empty() and len(items) < BATCH_MAX:
                items.append(self._queue.get_nowait())
            for together in batches_of(items, self._is_suspect):
                await self._handle(together)

    def _is_suspect(self, item: Item) -> bool:
        return item.place is not None and self._in_hand.is_suspect(item.place)

    async def _handle(self, items: list[Item]) -> None:
        outcome = Outcome()
        places = [item.place for item in items if item.place is not None]
        for item in items:
            if item.source is not None:
                self._offsets[item.source] = item.offset + 1
            with self._in_hand.trying(item.place) if item.place is not None else nullcontext():
                self._decide(item, outcome)
        if outcome.messages or outcome.states or self._offsets_are_due():
            with TRANSACTION_SECONDS.time(), self._blaming(places):
                await self._commit(outcome)
        for item in items:
            # What was set aside stays condemned until its offset is surely behind us.
            if item.place is not None and item.event is not None:
                self._in_hand.done(item.place)
        self._committed.update(outcome.states)
        self._measure(items, outcome)
        # Only what is committed has an effect outside.
        for table, decided in outcome.routes.values():
            self._apply_route(table, decided)
        if outcome.states:
            self._wake_host()

    @contextmanager
    def _blaming(self, places: list[Place]) -> Iterator[None]:
        """Suspect all of a batch when a commit fails by what it holds; the next process takes them one by one."""
        try:
            yield
        except Exception as error:
            # Away, fenced or stopped: that is no record's doing.
            if isinstance(error, TOO_LARGE) or not isinstance(error, KafkaError | OSError):
                for place in places:
                    self._in_hand.failed(place, error)
            raise

    def _measure(self, items: list[Item], outcome: Outcome) -> None:
        for item in items:
            if item.source is not None:
                self._on_handled(item.source, item.offset)
        for event in outcome.messages:
            EVENTS_PRODUCED.labels(TOPIC_BY_MESSAGE[event.type].name).inc()
            if isinstance(event.message, RolloutStep):
                STEPS.labels(Phase.Name(event.message.phase).removeprefix("PHASE_")).inc()
        if outcome.states:
            STATE_GAUGES.show(outcome.states)

    def _decide(self, item: Item, outcome: Outcome) -> None:
        before = self._states.get(item.model) or ModelState(model=item.model)
        decision = Decision(state=before) if item.event is None else decide(before, item.event)
        topic = item.source.topic if item.source is not None else ""
        # What means nothing here (our own steps among it) is none of a trace's business.
        sent = item.sent if item.event is not None else None
        if sent is not None and isinstance(sent.message, RouteApplied):
            self._ack_times.applied(sent.message, datetime.now(tz=UTC))
        with self._traces.deciding(sent, topic, before, decision):
            if item.applied is not None:
                self._record_applied(item, item.applied, outcome)
            if item.event is not None:
                self._record(item, item.event, before, decision, outcome)

    def _record(self, item: Item, event: core.Event, before: ModelState, decision: Decision, outcome: Outcome) -> None:
        DECISIONS.labels(type(event).__name__).inc()
        self._states[item.model] = decision.state
        if not isinstance(event, core.Ticked | core.HeartbeatSeen) or decision.steps:
            log.info("decided", model=item.model, on=type(event).__name__, reason=decision.reason)
        if _is_worth_keeping(before, decision):
            outcome.states[item.model] = decision.state
        self._record_steps(item, decision, outcome)

    def _record_steps(self, item: Item, decision: Decision, outcome: Outcome) -> None:
        for step in decision.steps:
            outcome.messages.append(
                Event(
                    message=wire.step_message(item.model, step),
                    id=timed_event_id("RolloutStep", step.rollout.rollout_id, step.sequence),
                    source=SOURCE,
                    time=datetime.fromtimestamp(step.time_s, tz=UTC),
                    subject=item.model,
                    correlation_id=step.rollout.correlation_id,
                    causation_id=item.cause_id,
                    sequence=step.sequence,
                    traceparent=self._traces.of_step(decision, step),
                )
            )
        if decision.retirement is not None:
            change, cause = decision.retirement, item.cause_id
            outcome.messages.append(retirement_event(item.model, change, source=SOURCE, cause_id=cause))
        if decision.route_changed:
            table = wire.route_message(item.model, decision.state.route)
            decided = datetime.fromtimestamp(_event_time_s(item), tz=UTC)
            outcome.routes[item.model] = (table, decided)
            is_breach = item.sent is not None and isinstance(item.event, core.MetricBreached)
            breach_time = item.sent.time if item.sent is not None and is_breach else None
            self._ack_times.decided(item.model, table.epoch, table.revision, breach_time)

    def _record_applied(self, item: Item, applied: RouteApplied, outcome: Outcome) -> None:
        state = self._states.get(item.model)
        self._ack_times.applied(applied, datetime.now(tz=UTC))
        rollout = state.rollout if state is not None else None
        correlation_id = rollout.correlation_id if rollout is not None else ""
        event = applied_event(applied, source=SOURCE, correlation_id=correlation_id)
        outcome.messages.append(replace(event, traceparent=current_traceparent()))

    def _offsets_are_due(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        if not self._offsets:
            self._offsets_since_s = now_s
        return bool(self._offsets) and now_s - self._offsets_since_s >= OFFSETS_LAZY_S

    async def _commit(self, outcome: Outcome) -> None:
        snapshots = [self._snapshot(state) for state in outcome.states.values()]
        tables = [self._snapshot_event(table, table.model) for table, _ in outcome.routes.values()]
        with ExitStack() as spans:
            async with asyncio.timeout(COMMIT_WITHIN_S), self._producer.transaction():
                for event in (*snapshots, *tables):
                    await self._send(self._topic_of(event), encode(event, content_type=PROTOBUF))
                for event in outcome.messages:
                    topic = self._topic_of(event)
                    await self._send(topic, spans.enter_context(sending(topic, encode(event, content_type=PROTOBUF))))
                if self._offsets:
                    await self._producer.send_offsets_to_transaction(dict(self._offsets), self._group)
        self._offsets.clear()
        self._offsets_since_s = asyncio.get_running_loop().time()

    def _snapshot(self, state: ModelState) -> Event:
        event = self._snapshot_event(wire.state_message(state), state.model)
        return replace(event, traceparent=self._traces.traceparent(state.rollout))

    def _snapshot_event(self, message: Message, model: str) -> Event:
        digest = derived_event_id(message.DESCRIPTOR.name, message.SerializeToString(deterministic=True).hex())
        return Event(
            message=message,
            id=digest,
            source=SOURCE,
            time=datetime.now(tz=UTC),
            subject=model,
            correlation_id=digest,
        )

    def _topic_of(self, event: Event) -> str:
        return TOPIC_BY_MESSAGE[event.type].full_name(self._kafka.topic_prefix)

    async def _send(self, topic: str, record: Record) -> None:
        # The input's partition is the output's: a model's history stays together whoever wrote the input.
        await self._producer.send(
            topic, value=record.value, key=record.key, headers=list(record.headers), partition=self.partition
        )

    async def _load(self) -> dict[str, ModelState]:
        """Return the states of the partition, read to the end of what is committed."""
        consumer = committed_consumer(self._kafka, auto_offset_reset="earliest")
        place = TopicPartition(ROLLOUT_STATE.full_name(self._kafka.topic_prefix), self.partition)
        newest: dict[bytes, Any] = {}
        await consumer.start()
        try:
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                batches: dict[TopicPartition, list[Any]] = await consumer.getmany(place, timeout_ms=LOAD_TIMEOUT_MS)
                newest.update({record.key: record for record in batches.get(place, [])})
        finally:
            await consumer.stop()
        states: dict[str, ModelState] = {}
        for record in newest.values():
            snapshot = RolloutState.FromString(record.value)
            states[snapshot.model] = wire.state_from(snapshot)
            self._traces.restore(states[snapshot.model], record)
        return states


def batches_of(items: list[Item], is_suspect: Callable[[Item], bool]) -> Iterator[list[Item]]:
    """Yield ``items`` in order, suspects alone."""
    for alone, found in groupby(items, is_suspect):
        together = list(found)
        yield from ([one] for one in together) if alone else [together]


def applied_event(applied: RouteApplied, *, source: str, correlation_id: str) -> Event:
    """Return the event that tells what the proxies said; the same word of the same source has the same id."""
    key = derived_event_id("RouteApplied", f"{source}|{applied.SerializeToString(deterministic=True).hex()}")
    return Event(
        message=applied,
        id=key,
        source=source,
        time=datetime.now(tz=UTC),
        subject=applied.model,
        correlation_id=correlation_id or key,
    )


def _told(seen: Seen) -> str:
    return "ready" if seen.ready else seen.failure or seen.waiting or "not ready"


def _is_worth_keeping(before: ModelState, decision: Decision) -> bool:
    """Say whether the state must be written: a heartbeat's time alone need not survive us."""
    after = decision.state
    if before.rollout is not None and after.rollout is not None:
        before = replace(before, rollout=replace(before.rollout, heartbeat_s=0.0))
        after = replace(after, rollout=replace(after.rollout, heartbeat_s=0.0))
    return before != after


def _event_time_s(item: Item) -> float:
    return item.event.time_s if item.event is not None else _now_s()


def _now_s() -> float:
    return datetime.now(tz=UTC).timestamp()
