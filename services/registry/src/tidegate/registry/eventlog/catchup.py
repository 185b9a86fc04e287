"""Catching up: before it decides a number, the registry learns what its own topics know and its database does not.

The topics ``registry`` and ``policies`` are kept for ever and only the registry writes them, so that a database from a
backup, an old disk or nowhere becomes right again. In normal times there is nothing to learn, and this ends at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import structlog
from sqlalchemy import Connection

from tidegate.contracts.codec import Event
from tidegate.contracts.names import version_reference
from tidegate.contracts.topics import POLICIES, REGISTRY, ROLLOUTS, Topic
from tidegate.core.errors import FailedPrecondition
from tidegate.core.settings import KafkaSettings
from tidegate.registry.eventlog.bus_admin import INPUTS, Offsets, read_bus_id, rewind_inputs
from tidegate.registry.eventlog.lost_tail import tell_again, told_events
from tidegate.registry.eventlog.positions import (
    RESTORED,
    join_bus,
    read_fact,
    read_positions,
    write_fact,
    write_positions,
)
from tidegate.registry.eventlog.reannouncement import announce_stable
from tidegate.registry.eventlog.replay import Replayed, count_handled_step, replay
from tidegate.registry.eventlog.topic_reader import TopicReader, reading
from tidegate.registry.store import Store
from tidegate.v1.events_pb2 import ModelRegistered

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CaughtUp:
    """What was learnt: ``bus`` is the cluster's id, ``versions`` those that the database did not have."""

    bus: str
    new_bus: bool = False
    applied: int = 0
    versions: tuple[str, ...] = ()
    announced: tuple[str, ...] = ()
    rewound: int = 0


async def catch_up(store: Store, kafka: KafkaSettings) -> CaughtUp:
    """Make the database reflect the registry's own topics, and have its inputs come again if it did not.

    Raises:
        Unavailable: The broker or the database are away, or another registry is in the consumer group.
        FailedPrecondition: The topic tells another story than the database, or has lost its beginning.

    """
    bus = await asyncio.to_thread(read_bus_id, kafka)
    new_bus = await store.write(lambda connection: join_bus(connection, bus))
    if new_bus:
        log.warning("this database comes from another Kafka cluster", bus=bus)
    applied = 0
    versions: list[str] = []
    for topic in (REGISTRY, POLICIES):
        async with reading(kafka, topic) as reader:
            count, references = await _learn_topic(store, bus, topic, reader)
        applied += count
        versions += references
    restored = await store.read(lambda connection: read_fact(connection, RESTORED))
    rewound: Offsets = {}
    if applied:
        log.warning("the database was behind its topics", events=applied, versions=versions, restored=restored)
    if restored:
        rewound = await _rewind(store, kafka, bus)
    announced = await store.write(lambda connection: announce_stable(connection, bus))
    if announced:
        log.warning("the stable versions are told to the new bus", versions=announced)
    return CaughtUp(
        bus=bus,
        announced=tuple(announced),
        new_bus=new_bus,
        applied=applied,
        versions=tuple(versions),
        rewound=sum(len(partitions) for partitions in rewound.values()),
    )


async def _learn_topic(store: Store, bus: str, topic: Topic, reader: TopicReader) -> tuple[int, list[str]]:
    """Replay what the database does not know of ``topic``; return how many events, and the versions among them."""
    known = await store.read(lambda connection: read_positions(connection, bus, reader.topic))
    shorter = {number: end for number, end in reader.ends.items() if known.get(number, 0) > end}
    unseen: set[str] = set()
    if shorter:
        log.error(
            "a topic ends before what was published to it; it is read again, and what is gone is sent again",
            topic=reader.topic,
            ends=shorter,
            known={number: known[number] for number in shorter},
        )
        # Keys are spread over the partitions: only all of them together show what is gone.
        known = {}
        unseen = await store.read(lambda connection: told_events(connection, topic))
    if not topic.compacted:
        _check_beginning(reader, known)
    applied = 0
    versions: list[str] = []
    async for events, ends in reader.batches(known):
        # Of a topic that lost its tail nothing counts as read before all of it is: else a crash would hide the loss.
        count, references = await _learn(store, bus, reader.topic, events, {} if shorter else ends)
        unseen -= {event.id for event in events}
        applied += count
        versions += references
    if shorter:
        await store.write(lambda connection: _mend(connection, bus, reader, unseen))
    return applied, versions


def _check_beginning(reader: TopicReader, known: Mapping[int, int]) -> None:
    for number, first in reader.first.items():
        if known.get(number, 0) < first:
            raise FailedPrecondition(
                f"{reader.topic}/{number} begins at offset {first}, the database knows it up to "
                f"{known.get(number, 0)}: registrations in between are lost, and their numbers could be given again",
                code="TOPIC_TRUNCATED",
                hint="the topic must be kept for ever (retention.ms=-1); restore a newer backup of the registry",
            )


async def _learn(
    store: Store, bus: str, topic: str, events: list[Event], ends: Mapping[int, int]
) -> tuple[int, list[str]]:
    """Replay one batch and remember its end, in one transaction; return what changed something."""

    def work(connection: Connection) -> list[Event]:
        learnt = [event for event in events if replay(connection, event) is Replayed.APPLIED]
        write_positions(connection, bus, topic, ends)
        if learnt and not read_fact(connection, RESTORED):
            # The inputs must come again even if this process ends before it can ask for them.
            write_fact(connection, RESTORED, "behind its topics")
        return learnt

    learnt = await store.write(work)
    messages = [event.message for event in learnt]
    return len(learnt), [
        version_reference(one.model, one.version) for one in messages if isinstance(one, ModelRegistered)
    ]


def _mend(connection: Connection, bus: str, reader: TopicReader, unseen: set[str]) -> None:
    tell_again(connection, unseen)
    write_positions(connection, bus, reader.topic, reader.ends)
    log.error("events that the topic lost are sent again", topic=reader.topic, events=len(unseen))


async def _rewind(store: Store, kafka: KafkaSettings, bus: str) -> Offsets:
    """Have verdicts, rollouts and trainings that this database did not see come again; those it saw change nothing."""
    names = [topic.full_name(kafka.topic_prefix) for topic in INPUTS]
    wanted = await store.read(lambda connection: {name: read_positions(connection, bus, name) for name in names})
    await _pass_handled_steps(store, kafka, wanted)
    rewound = await asyncio.to_thread(rewind_inputs, kafka, wanted)
    await store.write(lambda connection: write_fact(connection, RESTORED, ""))
    if rewound:
        log.info("the inputs are read again", offsets=rewound)
    return rewound


async def _pass_handled_steps(store: Store, kafka: KafkaSettings, wanted: Mapping[str, Mapping[int, int]]) -> None:
    """Find how far each model's rollout was followed: steps up to there must not move its aliases a second time."""
    async with reading(kafka, ROLLOUTS) as reader:
        async for events, _ in reader.batches(wanted.get(reader.topic, {})):
            await store.write(partial(_count_handled, events=events))


def _count_handled(connection: Connection, *, events: list[Event]) -> None:
    for event in events:
        count_handled_step(connection, event)
