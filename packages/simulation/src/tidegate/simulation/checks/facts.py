"""The truth that the invariants are checked against: what really happened, whoever believes what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from tidegate.deployer import events as core
from tidegate.deployer.state import TERMINAL_PHASES, Decision, ModelState, Number, Phase, Rollout, Route
from tidegate.simulation.bus import Place
from tidegate.simulation.plan import Quality
from tidegate.simulation.world import World
from tidegate.v1.policy_pb2 import Policy

RouteKey = tuple[int, int]
NO_ROUTE: RouteKey = (0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """One decision of a transaction; ``place`` and ``offset`` say which input it answers, if Kafka brought it."""

    model: str
    before: ModelState
    event: core.Event
    decision: Decision
    place: Place | None
    offset: int


class AtProxy(Protocol):
    """What is looked at of a proxy."""

    name: str

    @property
    def is_beyond_lease(self) -> bool:
        """Say whether the deployer has stopped to wait for it."""

    @property
    def held(self) -> dict[str, RouteKey]:
        """The route of each model that it has."""


@dataclass(kw_only=True, slots=True)
class Life:
    """What is known of one rollout; a switch is a way back to a version, without steps or a rollback window."""

    model: str
    candidate: Number
    asked_by_person: bool
    is_switch: bool
    approval_wanted: bool
    phases: list[Phase] = field(default_factory=list)
    breached_weight: int | None = None
    heard_s: float = 0.0
    evident: set[RouteKey] = field(default_factory=set)

    @property
    def endings(self) -> list[Phase]:
        """Return the terminal phases that it went through."""
        return [phase for phase in self.phases if phase in TERMINAL_PHASES]


@dataclass(kw_only=True, slots=True)
class Tally:
    """Requests of one arm, by assignment."""

    requests: int = 0
    failures: int = 0

    def add(self, *, is_failure: bool) -> None:
        """Count one request."""
        self.requests += 1
        self.failures += is_failure

    def add_all(self, more: Tally) -> None:
        """Count what another one counted."""
        self.requests += more.requests
        self.failures += more.failures


class Facts:
    """What all checks share."""

    def __init__(self, world: World, policies: dict[str, Policy]) -> None:
        self.world = world
        self.policies = policies
        self.proxies: list[AtProxy] = []
        self.states: dict[str, ModelState] = {}
        self.lives: dict[str, Life] = {}
        self.qualities: dict[tuple[str, str], Quality] = {}
        self.approved: set[tuple[str, str]] = set()
        self.ever_ready: set[str] = set()
        self.died_s: dict[str, float] = {}
        self.stopped_s: dict[str, float] = {}
        self.acknowledged: dict[str, tuple[RouteKey, float]] = {}
        self.tables: dict[str, RouteKey] = {}
        self.retired: dict[tuple[str, str], RouteKey] = {}
        """The route since which a version ("" = the whole model) is out of service."""
        self.main_lines: dict[tuple[str, RouteKey], dict[str, int]] = {}
        """The weights of unversioned requests, by route."""
        self.tallies: dict[tuple[str, int, int, str], Tally] = {}
        self.on_phase: Callable[[Phase], None] = _ignore
        """Is told of each phase that a rollout enters."""

    def quality(self, model: str, version: str) -> Quality:
        """Return the truth about a version."""
        return self.qualities[model, version]

    def is_retired(self, model: str, version: str, *, at_proxies: bool) -> bool:
        """Say whether a version is out of service, and (``at_proxies``) every leased proxy has heard of it."""
        found = [self.retired[key] for key in ((model, version), (model, "")) if key in self.retired]
        known, _ = self.acknowledged.get(model, (NO_ROUTE, 0.0))
        return any(not at_proxies or known >= key for key in found)

    def acknowledged_since(self, model: str, key: RouteKey) -> float | None:
        """Return since when all leased proxies have the route ``key``, None if they have not."""
        known, since_s = self.acknowledged.get(model, (NO_ROUTE, 0.0))
        return since_s if known == key else None


def _ignore(_phase: Phase) -> None:
    """Do nothing."""


def key_of(route: Route) -> RouteKey:
    """Return what orders routes."""
    return (route.epoch, route.revision)


def running_id(rollout: Rollout | None) -> str:
    """Return the id of a rollout, "" for none."""
    return "" if rollout is None else rollout.rollout_id


def weight_of(route: Route, number: Number) -> int:
    """Return the share of a version, over all lines."""
    return sum(arm.weight_millionths for line in route.lines for arm in line.arms if arm.number == number)


def without_heartbeat(state: ModelState) -> ModelState:
    """Return the state without what need not survive a crash."""
    if state.rollout is None:
        return state
    return replace(state, rollout=replace(state.rollout, heartbeat_s=0.0))


def told_route(route: Route) -> str:
    """Return a route for people."""
    lines = [
        f"{line.major}: " + " + ".join(f"{arm.number} {arm.weight_millionths / 10_000:g} %" for arm in line.arms)
        for line in route.lines
    ]
    return f"route {route.epoch}.{route.revision} {'; '.join(lines) or 'nothing'}"
