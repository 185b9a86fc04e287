"""What can happen to a model. Every event carries its time (seconds since the epoch) and its cause in one line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tidegate.deployer.state import Blessed, EvidenceItem, KnownVersion, Number


class Verb(StrEnum):
    """What a person can ask for; the names are the contract's."""

    START = "START"
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    PROMOTE = "PROMOTE"
    ABORT = "ABORT"
    APPROVE = "APPROVE"
    ROLLBACK = "ROLLBACK"
    RETIRE = "RETIRE"
    RESTORE = "RESTORE"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionRegistered:
    """A version exists and is stored."""

    time_s: float
    cause: str
    version: KnownVersion


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionBlessed:
    """A version may be delivered."""

    time_s: float
    cause: str
    blessed: Blessed


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionApproved:
    """A person consented to a version."""

    time_s: float
    cause: str
    number: Number


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerChanged:
    """The model host sees a server differently than before.

    ``failure`` says why it will not come up, ``waiting`` what it waits for before it can be started.
    """

    time_s: float
    cause: str
    number: Number
    endpoint: str
    ready: bool
    failure: str = ""
    waiting: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteAcknowledged:
    """Every leased proxy has the route table (epoch, revision)."""

    time_s: float
    cause: str
    epoch: int
    revision: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteRefused:
    """A proxy refused the route table (epoch, revision) and goes on with the one before it."""

    time_s: float
    cause: str
    epoch: int
    revision: int
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceReached:
    """The candidate is good enough on the route (epoch, revision)."""

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
    """The monitor watches the rollout."""

    time_s: float
    cause: str
    rollout_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandGiven:
    """A person asked for something; ``full`` is PROMOTE to 100 %."""

    time_s: float
    cause: str
    request_id: str
    verb: Verb
    rollout_id: str = ""
    number: Number | None = None
    full: bool = False
    actor: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenOver:
    """A deployer became the owner of the model's routes: a new epoch begins."""

    time_s: float
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticked:
    """Time went by."""

    time_s: float
    cause: str = "time"


Event = (
    VersionRegistered
    | VersionBlessed
    | VersionApproved
    | ServerChanged
    | RouteAcknowledged
    | RouteRefused
    | EvidenceReached
    | MetricBreached
    | HeartbeatSeen
    | CommandGiven
    | TakenOver
    | Ticked
)
