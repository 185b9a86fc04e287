"""The xDS server's shell as a model: sessions with proxies, leases, and who has acknowledged what; real ordering."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from tidegate.deployer.xds.ordering import (
    ModelResources,
    ProxyState,
    Push,
    is_settled,
    on_accepted,
    on_sent,
    plan,
)
from tidegate.simulation.proxy import LEASE_S, Proxy, Session
from tidegate.simulation.world import Process
from tidegate.v1.rollout_events_pb2 import RouteApplied, RouteTable

APPLIED_WAIT_S: Final = 5.0
DRAIN_S: Final = 2.0


@dataclass(kw_only=True, slots=True)
class Seat:
    """A proxy that is connected, or was within the lease."""

    state: ProxyState = field(default_factory=ProxyState)
    session: Session | None = None
    leases: int = 0


@dataclass(kw_only=True, slots=True)
class Shift:
    """The newest table of one model on its way to the proxies."""

    resources: ModelResources
    applied: set[str] = field(default_factory=set)
    is_late: bool = False
    reported: tuple[tuple[str, ...], tuple[str, ...]] | None = None


class Remember(Protocol):
    """Writes down, where the next deployer finds it, that a proxy may have a route, or that it has none any more."""

    def __call__(self, node: str, *, is_member: bool) -> None:
        """Write it down."""


class Fleet:
    """Brings tables to all proxies and says when they have them."""

    def __init__(self, owner: Process, on_applied: Callable[[RouteApplied], None], remember: Remember) -> None:
        self._owner = owner
        self._on_applied = on_applied
        # Survives the deployer: who may have a route.
        self._remember = remember
        self.seats: dict[str, Seat] = {}
        self.desired: dict[str, ModelResources] = {}
        self._shifts: dict[str, Shift] = {}
        self.is_hasty = False
        """The first acknowledgement counts for all (a planted fault)."""

    def restore_leases(self, nodes: Iterable[str]) -> None:
        """Count proxies that an earlier deployer knew as missing until they come, or for one lease."""
        for node in sorted(nodes):
            if self.seats.setdefault(node, Seat()).session is None:
                self._lease(node)

    def apply(self, table: RouteTable) -> None:
        """Start to bring ``table`` to all proxies, if it is newer than what is there."""
        resources = resources_of(table)
        before = self._shifts.get(table.model)
        if before is not None and resources.key <= before.resources.key:
            return
        shift = Shift(resources=resources)
        self._shifts[table.model] = shift
        self.desired = {**self.desired, table.model: resources}
        self._owner.later(APPLIED_WAIT_S, lambda: self._on_late(shift))
        for seat in self.seats.values():
            self._wake(seat)

    def connect(self, proxy: Proxy) -> Session:
        """Take a stream of a proxy in place of its older one."""
        seat = self.seats.setdefault(proxy.name, Seat())
        self._remember(proxy.name, is_member=True)
        session = Session(proxy=proxy, owner=self._owner, incarnation=self._owner.incarnation)
        seat.session = session
        seat.state = _resumed(seat.state, proxy)
        self._wake(seat)
        self._progress(proxy.name, seat)
        return session

    def disconnect(self, session: Session) -> None:
        """Keep the proxy's lease, then forget it."""
        seat = self.seats.get(session.proxy.name)
        if seat is not None and seat.session is session:
            seat.session = None
            self._lease(session.proxy.name)

    def close(self) -> None:
        """End all streams."""
        for seat in list(self.seats.values()):
            if seat.session is not None:
                seat.session.is_open = False

    def supersede(self, time_s: float | None) -> None:
        """Mark all streams as those of a deployer that lost its partitions at ``time_s``; None = it owns them."""
        for seat in self.seats.values():
            if seat.session is not None and (time_s is None or seat.session.superseded_s is None):
                seat.session.superseded_s = time_s

    def _lease(self, node: str) -> None:
        seat = self.seats[node]
        seat.leases += 1
        lease = seat.leases

        def drop() -> None:
            if self.seats.get(node) is seat and seat.session is None and seat.leases == lease:
                del self.seats[node]
                self._remember(node, is_member=False)
                self._owner.say("%s is dropped, its lease has ended", node)
                self._owner.world.count("proxy: lease ended")
                for shift in self._shifts.values():
                    shift.applied.discard(node)
                    self._report(shift)

        self._owner.later(LEASE_S, drop)

    def _wake(self, seat: Seat) -> None:
        session = seat.session
        if session is None:
            return
        push = plan(seat.state, self.desired, self._owner.world.now_s)
        if push is None:
            return
        seat.state = on_sent(seat.state, push)
        world = self._owner.world
        self._owner.later(world.between(0.001, 0.05), lambda: self._deliver(seat, session, push))

    def _deliver(self, seat: Seat, session: Session, push: Push) -> None:
        acknowledgement_s = session.proxy.receive(session, push)
        if acknowledgement_s is not None:
            self._owner.later(acknowledgement_s, lambda: self._acknowledged(seat, session))

    def _acknowledged(self, seat: Seat, session: Session) -> None:
        if seat.session is not session or not session.is_open:
            return
        drained_s = self._owner.world.now_s + DRAIN_S
        seat.state = on_accepted(seat.state, self.desired, drained_s=drained_s)
        self._owner.later(DRAIN_S + 0.1, lambda: self._wake(seat))
        self._wake(seat)
        self._progress(session.proxy.name, seat)

    def _progress(self, node: str, seat: Seat) -> None:
        for shift in self._shifts.values():
            if is_settled(seat.state, shift.resources):
                shift.applied.add(node)
            else:
                shift.applied.discard(node)
            self._report(shift)

    def _on_late(self, shift: Shift) -> None:
        shift.is_late = True
        self._report(shift)

    def _report(self, shift: Shift) -> None:
        applied = tuple(sorted(shift.applied))
        missing = tuple(sorted(set(self.seats) - shift.applied))
        complete = bool(applied) and (not missing or self.is_hasty)
        resources = shift.resources
        if shift.reported == (applied, missing) or not (complete or shift.is_late):
            return
        if self._shifts.get(resources.model) is not shift:
            return
        shift.reported = (applied, missing)
        told = "complete" if complete else f"missing {', '.join(missing)}"
        self._owner.say("reports %s %d.%d: %s", resources.model, resources.epoch, resources.revision, told)
        self._on_applied(
            RouteApplied(
                model=resources.model,
                epoch=resources.epoch,
                revision=resources.revision,
                applied=applied,
                missing=missing,
                complete=complete,
            )
        )


def resources_of(table: RouteTable) -> ModelResources:
    """Return what a proxy is sent for ``table``: one cluster a version, one route for the table as it is."""
    clusters = {
        f"{table.model}@{arm.version.major}.{arm.version.minor}.{arm.version.pipeline}": (
            arm.endpoints[0].encode() if arm.endpoints else b""
        )
        for line in table.lines
        for arm in line.arms
    }
    body = table.SerializeToString(deterministic=True)
    return ModelResources(
        model=table.model, epoch=table.epoch, revision=table.revision, clusters=clusters, routes=(body,)
    )


def _resumed(state: ProxyState, proxy: Proxy) -> ProxyState:
    """Return what is known of a proxy that begins a stream: all that it has, whoever sent it."""
    return replace(
        state, clusters=proxy.clusters, models=proxy.models, outstanding=None, refused=None, routes_subscribed=True
    )
