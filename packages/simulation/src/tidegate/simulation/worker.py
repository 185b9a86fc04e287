"""The owner of one partition as a model: each decision is one transaction, and only what it holds has an effect."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tidegate.contracts.codec import Event, derived_event_id, timed_event_id
from tidegate.contracts.topics import COMMANDS, MONITORING, REGISTRY, ROLLOUT_STATE, VALIDATION
from tidegate.deployer import events as core
from tidegate.deployer import rollout as rollout_core
from tidegate.deployer import wire
from tidegate.deployer.retirement_events import retirement_event
from tidegate.deployer.state import Decision, ModelState
from tidegate.simulation.bus import Fenced, Place
from tidegate.simulation.checks.facts import Decided
from tidegate.v1.rollout_events_pb2 import RolloutState, RouteApplied, RouteTable

if TYPE_CHECKING:
    from tidegate.simulation.deployer import Deployer

GROUP: Final = "deployer"
SOURCE: Final = "tidegate/deployer"
INPUTS: Final = (REGISTRY.name, VALIDATION.name, MONITORING.name, COMMANDS.name)
PROOF_LONGEST_S: Final = 4.0
BATCH_MAX: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing that reached a partition."""

    model: str
    event: core.Event | None
    cause_id: str = ""
    applied: RouteApplied | None = None
    place: Place | None = None
    offset: int = -1


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What a batch of items leads to."""

    decided: list[Decided] = field(default_factory=list)
    messages: list[Event] = field(default_factory=list)
    states: dict[str, ModelState] = field(default_factory=dict)
    tables: dict[str, RouteTable] = field(default_factory=dict)
    offsets: dict[Place, int] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Habits:
    """What the shell promises; each of them can be taken away, to see that somebody notices."""

    carries_out_again: bool = True
    commits_state: bool = True
    commits_offsets: bool = True
    acts_on_committed: bool = True
    proves_ownership: bool = True
    restores_leases: bool = True
    waits_for_all_proxies: bool = True


class Worker:
    """Owns one partition."""

    def __init__(self, deployer: Deployer, partition: int) -> None:
        self.deployer = deployer
        self.partition = partition
        self.bus = deployer.bus
        self.world = deployer.world
        self.transactional_id = f"{GROUP}-{partition}"
        self.epoch = self.bus.begin_epoch(self.transactional_id)
        self.states: dict[str, ModelState] = {}
        self.committed: dict[str, ModelState] = {}
        self.proved_s = self.world.now_s
        self.is_gone = False
        self._queue: deque[Item] = deque()
        self._is_busy = True
        self._places = [Place(topic, partition) for topic in INPUTS]
        self._positions: dict[Place, int] = {}
        self._is_polling: set[Place] = set()

    def load(self) -> None:
        """Load what was committed; a new epoch of the routes begins."""
        if self.is_gone:
            # Given up before it was loaded: what comes is the next owner's to hear of.
            return
        for event in self.bus.log(ROLLOUT_STATE.name, self.partition):
            if isinstance(event.message, RolloutState):
                self.states[event.message.model] = wire.state_from(event.message)
        for model, state in self.states.items():
            self.deployer.checker.decisions.on_loaded(model, state)
            if self.deployer.habits.carries_out_again:
                taken = core.TakenOver(time_s=self.deployer.clock_s(), cause=f"{self.deployer.name} took over")
                self._queue.append(Item(model=model, event=taken))
        self.committed = dict(self.states)
        # Read after the predecessor is fenced: nobody else can move them any more.
        self._positions = {place: self.bus.position(GROUP, place) for place in self._places}
        for place in self._places:
            self.bus.listen(place, -1, lambda place=place: self._poll(place))  # type: ignore[misc]
            self._poll(place)
        self._is_busy = False
        self._run()

    def put(self, item: Item) -> None:
        """Hand one item to the worker."""
        if not self.is_gone:
            self._queue.append(item)
            self._run()

    def prove(self) -> None:
        """Show the broker that this is still the owner; whoever can't is none."""
        if self.bus.is_reachable(self.deployer):
            try:
                self.bus.check_epoch(self.transactional_id, self.epoch)
            except Fenced:
                self.world.count("deployer: fenced")
                self.deployer.crash(f"fenced on partition {self.partition}")
                return
            self.proved_s = self.world.now_s
        elif self.deployer.habits.proves_ownership and not self.is_entitled():
            self.deployer.crash("could not prove its ownership for too long")

    @property
    def is_owner(self) -> bool:
        """Say whether the broker would still let it commit."""
        return self.bus.epochs[self.transactional_id] == self.epoch

    def is_entitled(self) -> bool:
        """Say whether nobody else can own the partition yet."""
        return self.world.now_s - self.proved_s <= PROOF_LONGEST_S or not self.deployer.habits.proves_ownership

    def _poll(self, place: Place) -> None:
        if place in self._is_polling or self.is_gone:
            return
        self._is_polling.add(place)
        self.deployer.later(self.world.between(0.002, 0.1), lambda: self._fetch(place))

    def _fetch(self, place: Place) -> None:
        self._is_polling.discard(place)
        if self.is_gone:
            return
        if not self.bus.is_reachable(self.deployer):
            self._is_polling.add(place)
            self.deployer.later(1.0, lambda: self._fetch(place))
            return
        log = self.bus.log(*place)
        position = self._positions[place]
        for offset in range(position, len(log)):
            event = log[offset]
            item = Item(
                model=event.subject,
                event=wire.core_event(event, self.deployer.clock_s()),
                cause_id=event.id,
                place=place,
                offset=offset,
            )
            self._queue.append(item)
        self._positions[place] = len(log)
        self._run()

    def _run(self) -> None:
        if self._is_busy or self.is_gone or not self._queue:
            return
        self._is_busy = True
        self.deployer.later(0.0, self._handle)

    def _handle(self) -> None:
        if self.is_gone:
            return
        outcome = Outcome()
        while self._queue and len(outcome.decided) < BATCH_MAX:
            item = self._queue.popleft()
            if item.place is not None:
                outcome.offsets[item.place] = item.offset + 1
            self._decide(item, outcome)
        if outcome.messages or outcome.states or outcome.offsets:
            self.deployer.later(self.world.between(0.005, 0.05), lambda: self._commit(outcome))
        else:
            if self.is_owner:
                # Nothing to commit; that it changes nothing must be right too.
                self.deployer.checker.decisions.on_committed(self.deployer.name, outcome.decided, {})
            self._is_busy = False
            self._run()

    def _decide(self, item: Item, outcome: Outcome) -> None:
        if item.applied is not None:
            outcome.messages.append(self._applied(item.model, item.applied))
        if item.event is None:
            return
        before = self.states.get(item.model) or ModelState(model=item.model)
        decision = rollout_core.decide(before, item.event)
        self.states[item.model] = decision.state
        outcome.decided.append(
            Decided(
                model=item.model,
                before=before,
                event=item.event,
                decision=decision,
                place=item.place,
                offset=item.offset,
            )
        )
        if decision.state != before:
            outcome.states[item.model] = decision.state
        self._record(item, decision, outcome)

    def _record(self, item: Item, decision: Decision, outcome: Outcome) -> None:
        for step in decision.steps:
            outcome.messages.append(
                Event(
                    message=wire.step_message(item.model, step),
                    id=timed_event_id("RolloutStep", step.rollout.rollout_id, step.sequence),
                    source=SOURCE,
                    time=self.world.time(),
                    subject=item.model,
                    correlation_id=step.rollout.correlation_id,
                    causation_id=item.cause_id,
                    sequence=step.sequence,
                )
            )
        if decision.retirement is not None:
            change, cause = decision.retirement, item.cause_id
            outcome.messages.append(retirement_event(item.model, change, source=SOURCE, cause_id=cause))
        if decision.route_changed:
            outcome.tables[item.model] = wire.route_message(item.model, decision.state.route)

    def _applied(self, model: str, applied: RouteApplied) -> Event:
        return self._event(applied, model)

    def _event(self, message: RouteApplied | RouteTable | RolloutState, model: str) -> Event:
        digest = derived_event_id(message.DESCRIPTOR.name, message.SerializeToString(deterministic=True).hex())
        return Event(
            message=message, id=digest, source=SOURCE, time=self.world.time(), subject=model, correlation_id=digest
        )

    def _commit(self, outcome: Outcome) -> None:
        """Let the whole transaction happen, or nothing of it."""
        deployer, habits = self.deployer, self.deployer.habits
        if self.is_gone:
            return
        if not self.bus.is_reachable(deployer):
            deployer.crash("a decision could not be committed")
            return
        try:
            self.bus.check_epoch(self.transactional_id, self.epoch)
        except Fenced:
            self.world.count("deployer: fenced")
            deployer.crash(f"fenced on partition {self.partition}")
            return
        self.proved_s = self.world.now_s
        if habits.commits_state:
            snapshots = [self._event(wire.state_message(state), model) for model, state in outcome.states.items()]
        else:
            snapshots = []
        tables = [self._event(table, model) for model, table in outcome.tables.items()]
        self.bus.append([*snapshots, *tables, *outcome.messages])
        if habits.commits_offsets:
            self.bus.commit(GROUP, outcome.offsets)
        self.committed.update(outcome.states)
        deployer.checker.decisions.on_committed(deployer.name, outcome.decided, outcome.tables)
        if self.world.chance(deployer.crash_after_commit):
            self.world.count("deployer: crash between commit and effect")
            deployer.crash("between the commit and its effect")
            return
        deployer.later(self.world.between(0.0, 0.02), lambda: self._carry_out(outcome))

    def _carry_out(self, outcome: Outcome) -> None:
        for table in outcome.tables.values():
            self.deployer.fleet.apply(table)
        self._is_busy = False
        self._run()
