"""What can happen to a model, past tense, each with its time; and what a decision asks for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tidegate.deployer.state import (
    Artifact,
    Change,
    Evidence,
    ModelState,
    Phase,
    Policy,
    Role,
    Route,
    Version,
)


class Verb(StrEnum):
    """What a person asks for."""

    START = "START"
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    PROMOTE = "PROMOTE"
    ABORT = "ABORT"
    APPROVE = "APPROVE"
    ROLLBACK = "ROLLBACK"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionRegistered:
    """The registry has a version and its artifact."""

    time: datetime
    version: Version
    artifact: Artifact


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionApproved:
    """A person approved a version."""

    time: datetime
    version: Version
    actor: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionRejected:
    """A person rejected a version."""

    time: datetime
    version: Version
    actor: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionBlessed:
    """The validator lets a version be delivered, under this policy; ``rollout_id`` names the rollout that follows."""

    time: datetime
    version: Version
    policy: Policy
    rollout_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerReady:
    """A version's server answers at ``endpoint``."""

    time: datetime
    version: Version
    endpoint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerFailed:
    """A version's server could not be started, or died for good."""

    time: datetime
    version: Version
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteAcknowledged:
    """Proxies have (or have not) acknowledged a route table; ``missing`` names those that have not."""

    time: datetime
    epoch: int
    revision: int
    complete: bool
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceReached:
    """The candidate is good enough at the step that began this route."""

    time: datetime
    rollout_id: str
    epoch: int
    revision: int
    evidence: Evidence


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricBreached:
    """The tide turned: a guard breached."""

    time: datetime
    rollout_id: str
    evidence: Evidence


@dataclass(frozen=True, kw_only=True, slots=True)
class HeartbeatSeen:
    """The monitor watches this rollout."""

    time: datetime
    rollout_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandGiven:
    """A person asked; the same ``request_id`` has its effect once. ``new_rollout_id`` is for START and ROLLBACK."""

    time: datetime
    request_id: str
    verb: Verb
    actor: str
    rollout_id: str = ""
    version: Version | None = None
    full: bool = False
    reason: str = ""
    new_rollout_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticked:
    """Time passed."""

    time: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenOver:
    """Another deployer owns the model from now on: its routes get a new epoch."""

    time: datetime


Event = (
    VersionRegistered
    | VersionApproved
    | VersionRejected
    | VersionBlessed
    | ServerReady
    | ServerFailed
    | RouteAcknowledged
    | EvidenceReached
    | MetricBreached
    | HeartbeatSeen
    | CommandGiven
    | Ticked
    | TakenOver
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StartServer:
    """See that a version's server runs."""

    version: Version


@dataclass(frozen=True, kw_only=True, slots=True)
class StopServer:
    """See that a version's server is gone."""

    version: Version


Command = StartServer | StopServer


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Share of one version, in millionths."""

    version: Version
    role: Role
    weight: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One published move of a rollout."""

    rollout_id: str
    sequence: int
    candidate: Version
    stable: Version | None
    strategy: str
    change: Change | None
    phase: Phase
    step_index: int
    arms: tuple[Arm, ...]
    epoch: int
    revision: int
    reason: str
    cause: str
    evidence: tuple[Evidence, ...]
    policy_revision: int
    breached_guard: str
    guards: str
    time: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What follows from an event: the new state, what to publish with it, and what to do after it is saved.

    ``is_durable`` is False where only a heartbeat's time changed: such a state need not be saved.
    """

    state: ModelState
    commands: tuple[Command, ...]
    steps: tuple[Step, ...]
    route: Route | None
    reason: str
    is_durable: bool


def describe(event: Event) -> str:
    """Return the event in one line."""
    match event:
        case VersionRegistered() | VersionBlessed():
            return f"{type(event).__name__} {event.version}"
        case VersionApproved() | VersionRejected():
            return f"{type(event).__name__} {event.version} by {event.actor}"
        case ServerReady(endpoint=endpoint):
            return f"ServerReady {event.version} at {endpoint}"
        case ServerFailed(reason=reason):
            return f"ServerFailed {event.version}: {reason}"
        case RouteAcknowledged(epoch=epoch, revision=revision, complete=complete):
            return f"RouteAcknowledged {epoch}/{revision} {'complete' if complete else 'incomplete'}"
        case EvidenceReached(evidence=evidence) | MetricBreached(evidence=evidence):
            return f"{type(event).__name__} {evidence.guard} e={evidence.e_value:.6g} of {evidence.threshold:.6g}"
        case CommandGiven(verb=verb, actor=actor, reason=reason):
            return f"{verb} by {actor}" + (f": {reason}" if reason else "")
        case HeartbeatSeen() | Ticked() | TakenOver():
            return type(event).__name__
