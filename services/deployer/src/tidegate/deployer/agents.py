"""The deployer's consumers: inputs to their partition's queue, and what every replica follows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from tidegate.contracts import codec
from tidegate.contracts.topics import COMMANDS, MONITORING, POLICIES, REGISTRY, ROLLOUTS, ROUTES, VALIDATION
from tidegate.core.clock import utc_now
from tidegate.core.errors import InvalidInput, TidegateError, Unavailable
from tidegate.core.policy import resolve_policy, validate_policy
from tidegate.core.settings import KafkaSettings
from tidegate.core.streams import retrying
from tidegate.deployer import wire
from tidegate.deployer.events import Event, RouteAcknowledged, ServerChanged, Ticked
from tidegate.deployer.hosts import Seen, Wanted
from tidegate.deployer.partition import Item, Partition
from tidegate.deployer.snapshots import decoded, event_or_none, partitions_of, read_to_end, reader
from tidegate.deployer.state import Decision
from tidegate.deployer.store import RolloutBook
from tidegate.deployer.xds import ProxyFleet
from tidegate.v1.events_pb2 import ModelBlessed
from tidegate.v1.rollout_events_pb2 import RolloutStep, RouteApplied, RouteTable

# Registrations first: a blessing needs its version, and the topics have no order between them.
INPUTS: Final = (REGISTRY, POLICIES, VALIDATION, COMMANDS, MONITORING)
SESSION_TIMEOUT_MS: Final = 10_000
HEARTBEAT_MS: Final = 2_000
BATCH_MAX: Final = 500
POLL_MS: Final = 500

log = structlog.get_logger(__name__)


class Deployer:
    """The partitions that this process owns, and the events that reach them."""

    def __init__(self, kafka: KafkaSettings, *, book: RolloutBook) -> None:
        self.kafka = kafka
        self.group = f"{kafka.topic_prefix}-deployer"
        self.partitions: dict[int, Partition] = {}
        self.assigned = asyncio.Event()
        self.changed = asyncio.Event()
        self._book = book
        self._fleet: ProxyFleet | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def attach(self, fleet: ProxyFleet) -> None:
        """Have routes go to ``fleet``."""
        self._fleet = fleet

    # What the model host and the fleet say.

    def wanted_servers(self) -> Iterable[Wanted]:
        """Return every server that shall run, of the models owned here."""
        for partition in self.partitions.values():
            for model, state in partition.states.items():
                known = (state.version(number) for number in state.wanted_servers())
                yield from (Wanted(model=model, version=version) for version in known if version is not None)

    def owns(self, model: str) -> bool:
        """Say whether this process decides about ``model``."""
        return self._owner(model) is not None

    def server_seen(self, seen: Seen) -> None:
        """Take what the model host says of a server."""
        owner = self._owner(seen.model)
        if owner is None:
            return
        cause = f"server of {seen.number} " + ("ready" if seen.ready else seen.failure or "not ready")
        event = ServerChanged(
            time_s=utc_now().timestamp(),
            cause=cause,
            number=seen.number,
            endpoint=seen.endpoint,
            ready=seen.ready,
            failure=seen.failure,
        )
        owner.tell(seen.model, event)

    def route_applied(self, applied: RouteApplied) -> None:
        """Take what the proxies say of a route."""
        owner = self._owner(applied.model)
        if owner is None:
            return
        event: Event | None = None
        if applied.complete:
            event = RouteAcknowledged(
                time_s=utc_now().timestamp(),
                cause=f"route {applied.epoch}.{applied.revision} is at {', '.join(applied.applied)}",
                epoch=applied.epoch,
                revision=applied.revision,
            )
        owner.tell_applied(applied, event)

    async def tick(self, every_s: float) -> None:
        """Let time enter the decisions about models with a rollout, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            for partition in self.partitions.values():
                for model, state in partition.states.items():
                    if state.rollout is not None:
                        partition.tell(model, Ticked(time_s=utc_now().timestamp()))

    def _owner(self, model: str) -> Partition | None:
        return next((one for one in self.partitions.values() if model in one.states), None)

    # What every replica follows.

    async def follow(self, caught_up: asyncio.Event) -> None:
        """Keep the read model and the fleet at what is committed; set ``caught_up`` when both are, until cancelled.

        Raises:
            Unavailable: The broker can't be reached.

        """
        partitions = partitions_of(self.kafka, (ROUTES, ROLLOUTS))
        async with reader(self.kafka, partitions) as consumer:
            self._take_all(await read_to_end(consumer, partitions))
            caught_up.set()
            while True:
                batches = await consumer.getmany(timeout_ms=POLL_MS)
                self._take_all([record for batch in batches.values() for record in batch])

    def _take_all(self, records: Sequence[Any]) -> None:
        events = [event for event in map(event_or_none, records) if event is not None]
        newest = {event.subject: event for event in events if isinstance(event.message, RouteTable)}
        for event in events:
            if isinstance(event.message, RolloutStep):
                self._book.record(event.message, event.time)
        for event in newest.values():
            self._apply(event.message, event.time)

    def _apply(self, table: Any, decided_time: datetime) -> None:
        if self._fleet is None:
            return
        try:
            self._fleet.apply(table, decided_time=decided_time)
        except InvalidInput as error:
            log.error("route table refused", model=table.model, code=error.code, error=str(error))  # noqa: TRY400

    def _on_committed(self, _decision: Decision, table: RouteTable | None, time: datetime) -> None:
        if table is not None:
            self._apply(table, time)
        self.changed.set()

    # Inputs.

    async def consume(self) -> None:
        """Consume inputs until cancelled.

        Raises:
            Conflict: Another deployer fenced this one.
            Unavailable: The broker can't be reached.

        """
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap,
            client_id="tidegate-deployer",
            group_id=self.group,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            # The same partition of every topic goes to the same member, since all have the same number.
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
        )
        try:
            await consumer.start()
        except KafkaError as error:
            await consumer.stop()
            raise Unavailable(f"no broker at {self.kafka.bootstrap}: {error}", code="BROKER_UNAVAILABLE") from error
        consumer.subscribe([topic.full_name(self.kafka.topic_prefix) for topic in INPUTS], listener=_Listener(self))
        pump = asyncio.create_task(self._pump(consumer))
        try:
            await asyncio.wait({pump, self._failure}, return_when=asyncio.FIRST_COMPLETED)
            for ended in (self._failure, pump):
                if ended.done():
                    ended.result()
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            await consumer.stop()
            await self.give_up([*self.partitions])

    async def _pump(self, consumer: AIOKafkaConsumer) -> None:
        order = {topic.full_name(self.kafka.topic_prefix): place for place, topic in enumerate(INPUTS)}
        while True:
            batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH_MAX)
            for where in sorted(batches, key=lambda one: order[one.topic]):
                for record in batches[where]:
                    partition = self.partitions.get(where.partition)
                    if partition is not None:
                        await partition.put(_item(record, where))

    async def take(self, numbers: Sequence[int]) -> None:
        """Own partitions from now on."""
        for number in numbers:
            partition = Partition(number, self.kafka, group=self.group, on_committed=self._on_committed)
            await retrying(partition.open, what=f"partition {number}")
            self.partitions[number] = partition
            task = asyncio.create_task(partition.run(), name=f"partition-{number}")
            task.add_done_callback(self._ended)
            self._tasks[number] = task
        self.assigned.set()
        self.changed.set()

    async def give_up(self, numbers: Sequence[int]) -> None:
        """Own partitions no more."""
        for number in numbers:
            partition = self.partitions.pop(number, None)
            task = self._tasks.pop(number, None)
            if partition is None or task is None:
                continue
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await partition.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._failure.done():
            return
        self._failure.set_exception(task.exception() or TidegateError("a partition ended by itself", code="PART_ENDED"))


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Partitions come and go with the members of the group."""

    def __init__(self, deployer: Deployer) -> None:
        self._deployer = deployer

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._deployer.give_up(sorted({one.partition for one in revoked}))

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._deployer.take(sorted({one.partition for one in assigned} - {*self._deployer.partitions}))


def _item(record: Any, where: TopicPartition) -> Item:
    """Return what an input means; one that is no event, or has a policy that is none, is set aside."""
    position = (where, record.offset + 1)
    try:
        event = decoded(record)
        _check(event)
    except (codec.InvalidEvent, InvalidInput) as error:
        log.warning("message set aside", topic=where.topic, offset=record.offset, error=str(error))
        extra = (
            ("tidegate-error", f"{error.code}: {error}".encode()),
            ("tidegate-origin", f"{where.topic}/{where.partition}/{record.offset}".encode()),
        )
        headers = tuple((str(name), bytes(raw or b"")) for name, raw in record.headers or ())
        set_aside = codec.Record(
            key=bytes(record.key or b""), value=bytes(record.value or b""), headers=(*headers, *extra)
        )
        return Item(set_aside=set_aside, position=position)
    meaning = wire.core_event(event, utc_now().timestamp())
    return Item(model=event.subject, event=meaning, source=event, position=position)


def _check(event: codec.Event) -> None:
    if not isinstance(event.message, ModelBlessed):
        return
    resolved = resolve_policy(event.message.policy)
    resolved.model = resolved.model or event.message.model
    faults = validate_policy(resolved)
    if faults:
        raise InvalidInput(faults[0].message, code=faults[0].code, field=f"policy.{faults[0].field}")
    event.message.policy.CopyFrom(resolved)
