"""One partition: one queue of events, one decision at a time, each in one Kafka transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from tidegate.contracts import codec
from tidegate.contracts.topics import DEAD_LETTER, TOPIC_BY_MESSAGE
from tidegate.core.clock import utc_now
from tidegate.core.errors import Conflict, Unavailable
from tidegate.core.settings import KafkaSettings
from tidegate.deployer import wire
from tidegate.deployer.events import Event, TakenOver
from tidegate.deployer.rollout import decide
from tidegate.deployer.snapshots import load_states
from tidegate.deployer.state import Decision, ModelState
from tidegate.v1.rollout_events_pb2 import RouteApplied, RouteTable

SOURCE: Final = "tidegate/deployer"
INPUTS_MAX: Final = 1_000
RETRY_BACKOFF_MS: Final = 5
TRANSACTION_TIMEOUT_MS: Final = 60_000
OFFSETS_EVERY_S: Final = 1.0

OnCommitted = Callable[[Decision, RouteTable | None, datetime], None]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing to handle: an event for the core, a RouteApplied to publish, a record to set aside, or an offset."""

    model: str = ""
    event: Event | None = None
    source: codec.Event | None = None
    applied: RouteApplied | None = None
    set_aside: codec.Record | None = None
    position: tuple[TopicPartition, int] | None = None


class Partition:
    """Owns the models of one partition; an older owner is fenced by Kafka as soon as :meth:`open` returns."""

    def __init__(self, number: int, kafka: KafkaSettings, *, group: str, on_committed: OnCommitted) -> None:
        self.number = number
        self.states: dict[str, ModelState] = {}
        self._kafka = kafka
        self._group = group
        self._on_committed = on_committed
        self._queue: asyncio.Queue[Item] = asyncio.Queue()
        # Only inputs are bounded: what the deployer tells itself is bounded by the number of models.
        self._room = asyncio.Semaphore(INPUTS_MAX)
        self._offsets: dict[TopicPartition, int] = {}
        self._producer = AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap,
            client_id=f"tidegate-deployer-{number}",
            transactional_id=f"{kafka.topic_prefix}-deployer-{number}",
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )

    async def open(self) -> None:
        """Fence the predecessor, load what it saved, and begin a new epoch of routes.

        Raises:
            Unavailable: The broker can't be reached.

        """
        try:
            await self._producer.start()
        except KafkaError as error:
            raise Unavailable(f"no producer for partition {self.number}: {error}", code="BROKER_UNAVAILABLE") from error
        self.states = await load_states(self._kafka, self.number)
        for model in self.states:
            self.tell(model, TakenOver(time_s=utc_now().timestamp(), cause="a deployer took the partition over"))
        log.info("partition taken", partition=self.number, models=len(self.states))

    async def close(self) -> None:
        """Give the partition up; what was not committed is handled by the next owner."""
        await self._producer.stop()

    async def put(self, item: Item) -> None:
        """Hand an input over; waits while INPUTS_MAX are unhandled."""
        await self._room.acquire()
        self._queue.put_nowait(item)

    def tell(self, model: str, event: Event) -> None:
        """Hand over an event of the deployer's own."""
        self._queue.put_nowait(Item(model=model, event=event))

    def tell_applied(self, applied: RouteApplied, event: Event | None) -> None:
        """Hand over a RouteApplied: it is published with the decision that it leads to."""
        self._queue.put_nowait(Item(model=applied.model, event=event, applied=applied))

    async def run(self) -> None:
        """Handle what comes until cancelled.

        Raises:
            Conflict: Another deployer has taken the partition over.
            Unavailable: A transaction failed; the state must be loaded again.

        """
        while True:
            try:
                item = await asyncio.wait_for(self._queue.get(), OFFSETS_EVERY_S)
            except TimeoutError:
                await self._commit([])
                continue
            await self._handle(item)
            if item.position is not None:
                self._room.release()

    async def _handle(self, item: Item) -> None:
        if item.position is not None:
            self._offsets[item.position[0]] = item.position[1]
        records: list[tuple[str, codec.Record]] = []
        if item.set_aside is not None:
            records.append((DEAD_LETTER.full_name(self._kafka.topic_prefix), item.set_aside))
        if item.applied is not None:
            records.append(self._encoded(_applied_event(item.applied)))
        decision = self._decide(item)
        if decision is not None:
            records.extend(self._encoded(event) for event in _published(item, decision))
        if records:
            await self._commit(records)
        if decision is not None:
            self._put_in_force(item.model, decision)

    def _decide(self, item: Item) -> Decision | None:
        if item.event is None:
            return None
        before = self.states.get(item.model, ModelState(model=item.model))
        decision = decide(before, item.event)
        if _is_same_but_heartbeat(before, decision.state):
            # A heartbeat a second needs no transaction: a new owner begins to count anew.
            self.states[item.model] = decision.state
            return None
        log.info("decided", model=item.model, by=type(item.event).__name__, reason=decision.reason)
        return decision

    def _put_in_force(self, model: str, decision: Decision) -> None:
        self.states[model] = decision.state
        table = wire.route_message(model, decision.state.route) if decision.route_changed else None
        self._on_committed(decision, table, utc_now())

    def _encoded(self, event: codec.Event) -> tuple[str, codec.Record]:
        return TOPIC_BY_MESSAGE[event.type].full_name(self._kafka.topic_prefix), codec.encode(event)

    async def _commit(self, records: list[tuple[str, codec.Record]]) -> None:
        if not records and not self._offsets:
            return
        try:
            async with self._producer.transaction():
                sent = [await self._send(topic, record) for topic, record in records]
                await asyncio.gather(*sent)
                if self._offsets:
                    await self._producer.send_offsets_to_transaction(self._offsets, self._group)
        except ProducerFenced as error:
            raise Conflict(
                f"another deployer has taken partition {self.number} over", code="PARTITION_FENCED"
            ) from error
        except KafkaError as error:
            raise Unavailable(f"a transaction failed: {error!r}", code="TRANSACTION_FAILED") from error
        self._offsets = {}

    async def _send(self, topic: str, record: codec.Record) -> Any:
        # The state of a model stays in the partition that its inputs come from, whoever hashed their keys.
        return await self._producer.send(
            topic, value=record.value, key=record.key or None, headers=list(record.headers), partition=self.number
        )


def _is_same_but_heartbeat(before: ModelState, after: ModelState) -> bool:
    if before.rollout is None or after.rollout is None:
        return before == after
    return replace(after, rollout=replace(after.rollout, heartbeat_s=before.rollout.heartbeat_s)) == before


def _applied_event(applied: RouteApplied) -> codec.Event:
    name = f"{applied.model}/{applied.epoch}/{applied.revision}/{','.join(applied.applied)}/{','.join(applied.missing)}"
    event_id = codec.derived_event_id("RouteApplied", name)
    return codec.Event(
        message=applied, id=event_id, source=SOURCE, time=utc_now(), subject=applied.model, correlation_id=event_id
    )


def _published(item: Item, decision: Decision) -> list[codec.Event]:
    """Return the events of one decision, in order: the route before the steps that name it, the state last."""
    state = decision.state
    now = utc_now()
    causation_id = "" if item.source is None else item.source.id
    correlation_id = "" if item.source is None else item.source.correlation_id
    events = []
    route = state.route
    place = f"{state.model}/{route.epoch}/{route.revision}"
    if decision.route_changed:
        table = wire.route_message(state.model, route)
        events.append((table, codec.derived_event_id("RouteTable", place), correlation_id, 0))
    for step in decision.steps:
        event_id = codec.timed_event_id("RolloutStep", step.rollout.rollout_id, step.sequence)
        events.append((wire.step_message(state.model, step), event_id, step.rollout.correlation_id, step.sequence))
    state_id = codec.derived_event_id("RolloutState", f"{place}/{state.sequence}/{now.timestamp()}")
    events.append((wire.state_message(state), state_id, correlation_id, 0))
    return [
        codec.Event(
            message=message,
            id=event_id,
            source=SOURCE,
            time=now,
            subject=state.model,
            correlation_id=correlation or event_id,
            causation_id=causation_id,
            sequence=sequence,
        )
        for message, event_id, correlation, sequence in events
    ]
