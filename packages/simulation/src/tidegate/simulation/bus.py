"""Kafka as a model: partitioned logs, transactions with fencing, consumers that see again what they did not commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from tidegate.contracts.codec import Event
from tidegate.contracts.topics import TOPIC_BY_MESSAGE
from tidegate.simulation.world import Process, World

COMMIT_EVERY_S: Final = 0.5
RETRY_S: Final = 1.0


class Place(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class Fenced(Exception):  # noqa: N818  (Kafka's word)
    """A newer owner of the transactional id exists."""


class Bus:
    """All logs, all committed offsets, and who owns which transactional id."""

    def __init__(self, world: World, partitions: int) -> None:
        self.world = world
        self.partitions = partitions
        self.down_until_s = 0.0
        self.epochs: dict[str, int] = {}
        self.is_fencing = True
        self.committed: dict[tuple[str, Place], int] = {}
        self.members: set[str] = set()
        """The proxies that any deployer has given a route, as its successor reads them."""
        self._logs: defaultdict[Place, list[Event]] = defaultdict(list)
        self._listeners: defaultdict[Place, dict[int, Callable[[], None]]] = defaultdict(dict)
        self._models: dict[str, int] = {}

    def partition_of(self, model: str) -> int:
        """Return the partition of a model's events."""
        return self._models.setdefault(model, len(self._models) % self.partitions)

    def is_reachable(self, process: Process) -> bool:
        """Say whether ``process`` can talk to the broker now."""
        return self.world.now_s >= self.down_until_s and not process.is_cut

    def log(self, topic: str, partition: int) -> list[Event]:
        """Return the log of one partition."""
        return self._logs[Place(topic, partition)]

    def topic(self, name: str) -> Iterable[Event]:
        """Return the events of all partitions of a topic."""
        for partition in range(self.partitions):
            yield from self._logs[Place(name, partition)]

    def append(self, events: Iterable[Event]) -> None:
        """Append events to the logs of their types, and wake whoever listens."""
        for event in events:
            place = Place(TOPIC_BY_MESSAGE[event.type].name, self.partition_of(event.subject))
            log = self._logs[place]
            log.append(replace(event, partition=place.partition, offset=len(log)))
            for wake in tuple(self._listeners[place].values()):
                wake()

    def send(self, process: Process, events: list[Event], then: Callable[[], None]) -> None:
        """Publish and tell ``process`` when the broker has it; tried again until it is there, at least once."""
        if not events:
            then()
            return
        if not self.is_reachable(process):
            process.later(RETRY_S, lambda: self.send(process, events, then))
            return
        self.append(events)
        process.later(self.world.between(0.001, 0.02), then)

    def listen(self, place: Place, key: int, wake: Callable[[], None]) -> None:
        """Call ``wake`` when ``place`` grows, in place of what ``key`` listened with before."""
        self._listeners[place][key] = wake

    def begin_epoch(self, transactional_id: str) -> int:
        """Take a transactional id; whoever had it is fenced from now on."""
        self.epochs[transactional_id] = self.epochs.get(transactional_id, 0) + 1
        return self.epochs[transactional_id]

    def check_epoch(self, transactional_id: str, epoch: int) -> None:
        """Let the owner pass.

        Raises:
            Fenced: Somebody else has taken the id.

        """
        if self.is_fencing and self.epochs.get(transactional_id) != epoch:
            raise Fenced(transactional_id)

    def commit(self, group: str, offsets: dict[Place, int]) -> None:
        """Remember how far ``group`` has come."""
        for place, offset in offsets.items():
            self.committed[group, place] = offset

    def position(self, group: str, place: Place) -> int:
        """Return where ``group`` goes on."""
        return self.committed.get((group, place), 0)


Handle = Callable[[Event, Callable[[], None]], None]


class Consumer:
    """One at a time, in order per partition, committed now and then: after a crash the last ones come again."""

    def __init__(self, process: Process, bus: Bus, topics: Iterable[str], handle: Handle) -> None:
        self._process = process
        self._bus = bus
        self._group = process.name
        self._handle = handle
        self._places = [Place(topic, number) for topic in topics for number in range(bus.partitions)]
        self._positions = {place: bus.position(self._group, place) for place in self._places}
        self._acked: dict[Place, int] = {}
        self._is_busy = False
        self._generation = 0
        for place in self._places:
            bus.listen(place, hash_of(process.name), self._wake)
        process.every(COMMIT_EVERY_S, self._commit)
        self._wake()

    def rebalance(self) -> None:
        """Go back to what is committed, as after a rebalance."""
        self._generation += 1
        self._acked.clear()
        self._positions = {place: self._bus.position(self._group, place) for place in self._places}
        self._is_busy = False
        self._wake()

    def _wake(self) -> None:
        if self._is_busy or not self._process.is_alive:
            return
        ready = [place for place in self._places if self._positions[place] < len(self._bus.log(*place))]
        if not ready:
            return
        self._is_busy = True
        place = self._bus.world.rng.choice(ready)
        generation = self._generation
        self._process.later(self._bus.world.between(0.002, 0.1), lambda: self._deliver(place, generation))

    def _deliver(self, place: Place, generation: int) -> None:
        if generation != self._generation:
            return
        if not self._bus.is_reachable(self._process):
            self._process.later(RETRY_S, lambda: self._deliver(place, generation))
            return
        event = self._bus.log(*place)[self._positions[place]]

        def done() -> None:
            if generation != self._generation:
                return
            self._positions[place] += 1
            self._acked[place] = self._positions[place]
            self._is_busy = False
            self._wake()

        self._handle(event, done)

    def _commit(self) -> None:
        if self._acked and self._bus.is_reachable(self._process):
            self._bus.commit(self._group, self._acked)
            self._acked = {}


def hash_of(name: str) -> int:
    """Return a number for ``name`` that is the same in every run."""
    return sum(ord(letter) * 257**place for place, letter in enumerate(name))
