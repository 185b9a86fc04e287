"""Envoy as a model: it serves with what it has, whoever is dead, and acknowledges what it is sent, sooner or later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from tidegate.contracts.names import format_version
from tidegate.deployer.xds.ordering import ClusterPush, ModelResources, Push
from tidegate.monitor.batches import Attempt, Key
from tidegate.simulation.checker import Checker
from tidegate.simulation.modelhost import System
from tidegate.simulation.world import Process, World
from tidegate.v1.rollout_events_pb2 import RouteLine, RouteTable

KEEPALIVE_S: Final = 10.0
TRAFFIC_S: Final = 3.0
LEASE_S: Final = 20.0
CATCH_UP_S: Final = 1.0
OK: Final = 200
BROKEN: Final = 500
NOBODY: Final = 503


@dataclass(kw_only=True, eq=False, slots=True)
class Session:
    """One stream between a proxy and one life of a deployer."""

    proxy: Proxy
    owner: Process
    incarnation: int
    is_open: bool = True
    superseded_s: float | None = None
    """Since when another deployer owns the partitions: from then on the owner waits for the proxy, for one lease."""

    @property
    def is_dead(self) -> bool:
        """Say whether the other end is gone."""
        return not self.owner.is_alive or self.owner.incarnation != self.incarnation


class ControlPlane(Protocol):
    """What a proxy can connect to."""

    def connect(self, proxy: Proxy) -> Session | None:
        """Return a stream, or None while nobody answers."""

    def disconnect(self, session: Session) -> None:
        """See that a stream has ended."""


Log = Callable[[Attempt], None]


class Proxy(Process):
    """One Envoy with its clients."""

    restart_s = (0.5, 5.0)

    def __init__(self, world: World, name: str, *, system: System, checker: Checker, requests: int) -> None:
        super().__init__(world, name)
        self.system = system
        self.checker = checker
        self.requests = requests
        self.control: ControlPlane | None = None
        self.log: Log | None = None
        self.clusters: Mapping[str, bytes] = {}
        self.models: Mapping[str, ModelResources] = {}
        self.tables: dict[str, RouteTable] = {}
        self.session: Session | None = None
        self.lost_s = world.now_s
        self.ack_lost_until_s = 0.0
        self.ack_late_until_s = 0.0
        self.clock_off_s = 0.0
        self.lease_s = LEASE_S
        self.is_stale = False
        """It was beyond its lease, and has not had a route since."""
        self._request_ids = 0

    def on_start(self) -> None:
        """Begin without any configuration."""
        self.every(1.0, self._connect)
        self.every(TRAFFIC_S, self.serve)

    def on_crash(self) -> None:
        """Lose everything."""
        self._close()
        self.clusters, self.models, self.tables = {}, {}, {}

    def receive(self, session: Session, push: Push) -> float | None:
        """Take what was sent; return after how many seconds the acknowledgement is there, None for never."""
        if not self.is_alive or not session.is_open or self.session is not session:
            return None
        if self.is_cut:
            # What is lost ends the stream, however short the cut is.
            self.later(KEEPALIVE_S, lambda: self._give_up(session))
            return None
        if isinstance(push, ClusterPush):
            self.clusters = push.clusters
        else:
            self.models = push.models
            self.is_stale = False
            self.tables = {
                model: RouteTable.FromString(resources.routes[0]) for model, resources in push.models.items()
            }
            for model, table in self.tables.items():
                self.checker.decisions.on_route_at_proxy(self.name, model, (table.epoch, table.revision))
            self.say("has %s", ", ".join(f"{one.model} {one.epoch}.{one.revision}" for one in push.models.values()))
        now_s = self.world.now_s
        if now_s < self.ack_lost_until_s:
            self.world.count("proxy: acknowledgement lost")
            self.later(KEEPALIVE_S, lambda: self._give_up(session))
            return None
        return self.world.between(1.0, 6.0) if now_s < self.ack_late_until_s else self.world.between(0.001, 0.05)

    @property
    def is_beyond_lease(self) -> bool:
        """Say whether no deployer has to wait for it any more, or it comes back from there just now."""
        lost_s = self.lost_s if self.session is None else self.session.superseded_s
        return self.is_stale if lost_s is None else self.world.now_s - lost_s >= self.lease_s

    @property
    def held(self) -> dict[str, tuple[int, int]]:
        """The route of each model that it has."""
        return {model: (table.epoch, table.revision) for model, table in self.tables.items()}

    def _give_up(self, session: Session) -> None:
        if self.session is session:
            self._close()

    def _close(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.is_open = False
            if not self.is_stale:
                self.lost_s = self.world.now_s if session.superseded_s is None else session.superseded_s
            if self.control is not None:
                self.control.disconnect(session)

    def _connect(self) -> None:
        session = self.session
        if session is not None:
            if session.is_dead or self.is_cut or not session.is_open:
                self._close()
            elif session.owner.is_paused:
                self.later(KEEPALIVE_S, lambda: self._close_if_paused(session))
            return
        if not self.is_cut and self.control is not None:
            was_beyond_lease = self.is_beyond_lease
            self.session = self.control.connect(self)
            self.is_stale = was_beyond_lease and self.session is not None
            if self.is_stale:
                self.later(CATCH_UP_S, self._caught_up)
            if self.session is not None:
                self.say("is connected to %s", self.session.owner.name)

    def _caught_up(self) -> None:
        if self.world.now_s < self.ack_lost_until_s + KEEPALIVE_S:
            # Its acknowledgements are lost: the routes come only after it has been heard.
            self.later(CATCH_UP_S, self._caught_up)
            return
        if self.session is not None and not self.session.is_dead:
            self.is_stale = False

    def _close_if_paused(self, session: Session) -> None:
        if self.session is session and session.owner.is_paused:
            self._close()

    def serve(self) -> None:
        """Serve the requests of the last seconds."""
        for model, table in self.tables.items():
            for index, line in enumerate(table.lines):
                for _ in range(self.requests if index == 0 else 2):
                    self._serve_one(model, table, line)

    def _serve_one(self, model: str, table: RouteTable, line: RouteLine) -> None:
        world = self.world
        self._request_ids += 1
        request_id = f"{self.name}-{self.incarnation}-{self._request_ids}"
        drawn = world.rng.randrange(1_000_000)
        assigned = ""
        for arm in line.arms:
            drawn -= arm.weight_millionths
            if drawn < 0:
                assigned = format_version(arm.version)
                break
        start_us = int((world.now_s + self.clock_off_s - world.between(0.0, TRAFFIC_S)) * 1_000_000)
        key = Key(node_id=self.name, model=model, epoch=table.epoch, revision=table.revision)
        status, latency_ms = self._ask(model, assigned)
        self._write(key, request_id, assigned, assigned, status, start_us, latency_ms)
        self.checker.requests.on_attempt(key, request_id, assigned, status)
        answered_by = assigned
        fallback = format_version(line.fallback_version) if line.HasField("fallback_version") else ""
        if status != OK and fallback and fallback != assigned:
            status, latency_ms = self._ask(model, fallback)
            answered_by = fallback
            self._write(key, request_id, assigned, fallback, status, start_us, latency_ms)
        self.checker.requests.on_answer(self, model, assigned, answered_by, is_nobody=status == NOBODY)

    def _ask(self, model: str, version: str) -> tuple[int, float]:
        endpoint = self.clusters.get(f"{model}@{version}", b"").decode()
        if not self.system.is_answering(endpoint):
            return NOBODY, 0.0
        quality = self.checker.facts.quality(model, version)
        if quality.error_rate and self.world.chance(quality.error_rate):
            return BROKEN, 1.0
        return OK, quality.latency_ms * self.world.between(0.8, 1.2)

    def _write(  # noqa: PLR0917
        self, key: Key, request_id: str, assigned: str, answering: str, status: int, start_us: int, latency_ms: float
    ) -> None:
        if self.log is not None:
            self.log(
                Attempt(
                    key=key,
                    request_id=request_id,
                    assigned_arm=assigned,
                    answering_arm=answering,
                    status=0 if status == NOBODY else status,
                    start_us=start_us,
                    latency_us=int(latency_ms * 1000),
                )
            )
