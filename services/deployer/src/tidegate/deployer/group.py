"""The consumer of all inputs: the same partition of every topic comes to the same deployer and its one worker."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from tidegate.contracts.codec import Event, InvalidEvent, Record, decode_record
from tidegate.contracts.principals import DEPLOYER_PRINCIPAL
from tidegate.contracts.topics import COMMANDS, MONITORING, REGISTRY, ROLLOUTS, VALIDATION
from tidegate.core.bus import EventProducer
from tidegate.core.clock import utc_now
from tidegate.core.errors import InvalidInput
from tidegate.core.in_hand import InHand, Place
from tidegate.core.kafka_access import explain
from tidegate.core.kafka_consumer import committed_consumer
from tidegate.core.metrics import Handling
from tidegate.core.settings import KafkaSettings
from tidegate.core.streams import exit_unexpected, retrying, set_aside, set_passed_over_aside
from tidegate.deployer import events as core
from tidegate.deployer import wire
from tidegate.deployer.agents import PROXIES_SOURCE, ApplyRoute, Item, PartitionWorker, applied_event
from tidegate.deployer.hosts import LiveHost, Seen, Wanted
from tidegate.v1.rollout_events_pb2 import RouteApplied

# The rollouts topic is our own output: from it we read only what other deployers' proxies say.
INPUTS: Final = (REGISTRY, VALIDATION, MONITORING, COMMANDS, ROLLOUTS)
SESSION_S: Final = 10.0
# After so long without a turn of the event loop somebody else may own what we believe to be ours.
STALLED_S: Final = 8.0
POLL_MS: Final = 500
POLL_RECORDS: Final = 500
# The client can wait for ever where a broker dies while a partition is being taken.
TAKE_WITHIN_S: Final = 30.0
REFUSAL_CHARACTERS_MAX: Final = 1_000

log = structlog.get_logger(__name__)


class WorkerGroup(ConsumerRebalanceListener):  # type: ignore[misc]
    """All partitions that this process owns."""

    def __init__(
        self, *, kafka: KafkaSettings, producer: EventProducer, apply_route: ApplyRoute, in_hand: InHand
    ) -> None:
        self._kafka = kafka
        self._in_hand = in_hand
        self._producer = producer
        self._apply_route = apply_route
        self._group = DEPLOYER_PRINCIPAL.consumer_group(kafka.topic_prefix)
        self._workers: dict[int, PartitionWorker] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._handling = {name: Handling(name) for name in (one.full_name(kafka.topic_prefix) for one in INPUTS)}
        self._taken = asyncio.Event()
        self._is_fresh = False
        # Counts what was revoked: what was fetched before must not reach the workers after.
        self._generation = 0
        self._ticked_s = 0.0
        self._forwarding: set[asyncio.Task[None]] = set()
        self.host: LiveHost | None = None
        self._consumer = committed_consumer(
            kafka,
            group_id=self._group,
            auto_offset_reset="earliest",
            session_timeout_ms=round(SESSION_S * 1000),
            heartbeat_interval_ms=2_000,
            fetch_max_wait_ms=100,
            partition_assignment_strategy=(RangePartitionAssignor,),
        )

    async def start(self) -> None:
        """Join the group."""
        await self._consumer.start()
        self._ticked_s = asyncio.get_running_loop().time()
        self._consumer.subscribe([topic.full_name(self._kafka.topic_prefix) for topic in INPUTS], listener=self)

    async def stop(self) -> None:
        """Leave the group; the partitions go to others."""
        await self._consumer.stop()
        await self._stop_workers()

    async def wait_assigned(self) -> None:
        """Wait until the group has given us our share."""
        await self._taken.wait()

    async def run(self) -> None:
        """Hand every input to the worker of its partition, until cancelled.

        Raises:
            Refused: The broker does not let us join the group.

        """
        while True:
            if self._taken.is_set() and self._is_fresh:
                await self._begin_where_the_last_one_ended()
            # Also while nothing is ours: the client does not join again for somebody who asks for nothing.
            try:
                batches = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
            except KafkaError as error:
                raise await explain(self._kafka, error) from error
            await set_passed_over_aside(self._producer)
            # What was fetched before a rebalance is fetched again by whoever owns it now.
            if self._taken.is_set() and not self._is_fresh:
                await self._deliver(batches)

    def wanted(self) -> list[Wanted]:
        """Return the servers that shall run for the models that we own."""
        return [one for worker in self._workers.values() for one in worker.wanted()]

    def owns(self, model: str) -> bool:
        """Say whether we decide about ``model``; nobody can say after a stall, until it has been noticed."""
        return not self._has_stalled() and any(worker.owns(model) for worker in self._workers.values())

    def tell(self, seen: Seen) -> None:
        """Pass on how a server is."""
        for worker in self._workers.values():
            if worker.owns(seen.model):
                worker.see(seen)

    def tick(self) -> None:
        """Let time enter; must be called every second at least.

        A process that was stopped and goes on may have lost its partitions without knowing: it ends.
        """
        if self._has_stalled():
            log.error("the process stood still, somebody else may decide now", longest_s=STALLED_S)
            exit_unexpected()
        self._ticked_s = asyncio.get_running_loop().time()
        for worker in self._workers.values():
            worker.tick()

    def on_applied(self, applied: RouteApplied) -> None:
        """Pass on what the proxies say about a route: to its owner, here or (by the topic) in another process."""
        event = wire.route_event(applied, utc_now().timestamp())
        owners = [worker for worker in self._workers.values() if worker.owns(applied.model)]
        for worker in owners:
            worker.put_now(Item(model=applied.model, event=event, applied=applied))
        if not owners:
            task = asyncio.create_task(self._forward(applied), name="forward-applied")
            self._forwarding.add(task)
            task.add_done_callback(self._forwarding.discard)

    def on_refused(self, model: str, epoch: int, revision: int, message: str) -> None:
        """Pass on that a proxy refused a route."""
        refusal = message[:REFUSAL_CHARACTERS_MAX] or "no reason given"
        self.on_applied(RouteApplied(model=model, epoch=epoch, revision=revision, refusal=refusal))

    async def _forward(self, applied: RouteApplied) -> None:
        event = applied_event(applied, source=PROXIES_SOURCE, correlation_id="")
        what = f"what proxies say about {applied.model}"
        await retrying(lambda: self._producer.publish(event), what=what, operation="forward")

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        """Stop deciding before others begin."""
        log.info("partitions revoked", partitions=sorted({place.partition for place in revoked}))
        self._generation += 1
        self._taken.clear()
        await self._stop_workers()

    async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        """Take every partition that we got; its offsets are read only after its predecessor is fenced."""
        try:
            async with asyncio.timeout(TAKE_WITHIN_S):
                # Side by side: the group hears nothing of us meanwhile, and waits for no longer than a session.
                await asyncio.gather(*(self._take(partition) for partition in {place.partition for place in assigned}))
        except Exception:
            # The client would log it and go on, and nobody would decide about what is ours.
            log.exception("the partitions could not be taken, the process ends")
            exit_unexpected()
        self._is_fresh = True
        self._taken.set()
        if self.host is not None:
            self.host.forget()

    async def _take(self, partition: int) -> None:
        worker = PartitionWorker(
            partition=partition,
            kafka=self._kafka,
            group=self._group,
            in_hand=self._in_hand,
            apply_route=self._apply_route,
            wake_host=self._wake_host,
            on_handled=self._on_handled,
        )
        await worker.start()
        self._workers[partition] = worker
        self._tasks[partition] = asyncio.create_task(_run(worker), name=f"partition-{partition}")

    def _has_stalled(self) -> bool:
        return asyncio.get_running_loop().time() - self._ticked_s > STALLED_S

    async def _begin_where_the_last_one_ended(self) -> None:
        try:
            async with asyncio.timeout(TAKE_WITHIN_S):
                await self._seek_to_committed()
        except TimeoutError:
            log.exception("where the last decision ended could not be read, the process ends")
            exit_unexpected()

    async def _seek_to_committed(self) -> None:
        """Begin where the last transaction ended, read after every predecessor is fenced."""
        self._is_fresh = False
        for place in self._consumer.assignment():
            committed = await self._consumer.committed(place)
            if committed is None:
                await self._consumer.seek_to_beginning(place)
            else:
                self._consumer.seek(place, committed)

    def _wake_host(self) -> None:
        if self.host is not None:
            self.host.wake()

    async def _stop_workers(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for worker in self._workers.values():
            await worker.stop()
        self._tasks.clear()
        self._workers.clear()
        for handling in self._handling.values():
            handling.clear()

    def _on_handled(self, place: TopicPartition, offset: int) -> None:
        self._handling[place.topic].done((place.partition, offset))

    async def _deliver(self, batches: dict[TopicPartition, list[Any]]) -> None:
        generation = self._generation
        for place, records in batches.items():
            for record in records:
                await self._deliver_one(place, record)
                if generation != self._generation:
                    return

    async def _deliver_one(self, place: TopicPartition, record: Any) -> None:
        worker = self._workers.get(place.partition)
        if worker is None:
            return
        try:
            self._in_hand.check(Place(topic=place.topic, partition=place.partition, offset=record.offset))
            event = decode_record(record, received_time=utc_now())
            meaning = _core_event(event)
        except (InvalidEvent, InvalidInput) as error:
            await self._set_aside(record, error)
            # While the broker was away somebody else may have got the partition, with what comes after this one.
            if self._workers.get(place.partition) is worker:
                await worker.put(Item(model="", event=None, source=place, offset=record.offset))
            return
        self._handling[place.topic].take((place.partition, record.offset), event.time)
        await worker.put(
            Item(
                model=event.subject,
                event=meaning,
                cause_id=event.id,
                correlation_id=event.correlation_id,
                source=place,
                offset=record.offset,
                sent=event,
            )
        )

    async def _set_aside(self, record: Any, error: InvalidEvent | InvalidInput) -> None:
        origin = f"{record.topic}/{record.partition}/{record.offset}"
        aside = Record(key=record.key or b"", value=record.value or b"", headers=tuple(record.headers))
        await set_aside(self._producer, aside, origin=origin, code=error.code, error=str(error))


def _core_event(event: Event) -> core.Event | None:
    """Return what an event means to the core; what we said ourselves on the rollouts topic means nothing."""
    if isinstance(event.message, RouteApplied) and event.source != PROXIES_SOURCE:
        return None
    try:
        return wire.core_event(event, utc_now().timestamp())
    except (KeyError, ValueError) as error:
        # Readable, and of another release: a verb or a strategy that this one does not know.
        raise InvalidEvent(
            "EVENT_NOT_UNDERSTOOD", f"{event.type} says what this release does not know: {error}"
        ) from error


async def _run(worker: PartitionWorker) -> None:
    try:
        await worker.run()
    except asyncio.CancelledError:
        raise
    except Exception:
        # Fenced, or the broker refused the transaction: what is in memory is ahead of what is true.
        log.exception("a decision could not be committed, the process ends", partition=worker.partition)
        exit_unexpected()
