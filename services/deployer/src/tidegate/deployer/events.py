"""What can happen to a model, past tense; time is a field (epoch seconds), ``cause`` is the event in one line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tidegate.deployer.state import Blessed, EvidenceItem, KnownVersion, Number


class Verb(StrEnum):
    """What a person asks for; the names are those of the contract without ``VERB_``."""

    START = "START"
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    PROMOTE = "PROMOTE"
    ABORT = "ABORT"
    APPROVE = "APPROVE"
    ROLLBACK = "ROLLBACK"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionRegistered:
    """The registry has a version."""

    time_s: float
    cause: str
    version: KnownVersion


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionBlessed:
    """The validator lets a version be delivered."""

    time_s: float
    cause: str
    blessed: Blessed


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionApproved:
    """A person approved a version."""

    time_s: float
    cause: str
    number: Number


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerChanged:
    """A version's server became ready, not ready, or failed; ``failure`` says why."""

    time_s: float
    cause: str
    number: Number
    endpoint: str
    ready: bool
    failure: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteAcknowledged:
    """Every leased proxy has a route table."""

    time_s: float
    cause: str
    epoch: int
    revision: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceReached:
    """The candidate is good enough at the step whose route this is."""

    time_s: float
    cause: str
    rollout_id: str
    epoch: int
    revision: int
    evidence: EvidenceItem


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricBreached:
    """The tide turned."""

    time_s: float
    cause: str
    rollout_id: str
    guard: str
    evidence: EvidenceItem


@dataclass(frozen=True, kw_only=True, slots=True)
class HeartbeatSeen:
    """The monitor watches this rollout."""

    time_s: float
    cause: str
    rollout_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandGiven:
    """A person asked for something; the same request has its effect once."""

    time_s: float
    cause: str
    request_id: str
    verb: Verb
    rollout_id: str = ""
    number: Number | None = None
    full: bool = False
    actor: str = "somebody"


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenOver:
    """A deployer owns the model's partition from now on."""

    time_s: float
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticked:
    """Time passed."""

    time_s: float
    cause: str = "time passed"


Event = (
    VersionRegistered
    | VersionBlessed
    | VersionApproved
    | ServerChanged
    | RouteAcknowledged
    | EvidenceReached
    | MetricBreached
    | HeartbeatSeen
    | CommandGiven
    | TakenOver
    | Ticked
)
