"""What the deployer knows of one model: frozen values, and questions about them. Times are seconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple

WEIGHT_TOTAL: Final = 1_000_000
KNOWN_VERSIONS_MAX: Final = 500
REQUEST_IDS_MAX: Final = 200
QUEUE_MAX: Final = 50
POLICIES_MAX: Final = 50


class Number(NamedTuple):
    """A version number; numbers compare as people expect."""

    major: int
    minor: int
    pipeline: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.pipeline}"


class Phase(StrEnum):
    """Where a rollout stands; the names are the contract's."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    STEPPING = "STEPPING"
    HOLDING = "HOLDING"
    PAUSED = "PAUSED"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    SETTLING = "SETTLING"
    PROMOTED = "PROMOTED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"
    ABORTED = "ABORTED"
    SUPERSEDED = "SUPERSEDED"


TERMINAL_PHASES: Final = frozenset({Phase.PROMOTED, Phase.ROLLED_BACK, Phase.ABORTED, Phase.SUPERSEDED})


class Role(StrEnum):
    """Role of a version in a route."""

    STABLE = "STABLE"
    CANDIDATE = "CANDIDATE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """One way to deliver, as the policy names it."""

    name: str
    steps: tuple[float, ...] = ()
    bake_s: float = 10.0
    approval: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryPolicy:
    """The part of a policy that delivery obeys; ``guards_json`` is handed on to the monitor unread."""

    revision: int
    on_first: Strategy
    on_major: Strategy
    on_minor: Strategy
    on_pipeline: Strategy
    approvals: tuple[int, int, int] = (0, 0, 0)
    deadline_s: float = 86_400.0
    settle_s: float = 600.0
    holdback: float = 0.0
    on_breach: str = "rollback"
    mid_rollout: str = "queue"
    mode: str = "act"
    guards_json: str = "{}"


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownVersion:
    """A registered version: what a server needs to serve it, and whether it is blessed.

    ``approval`` is the role whose consent its policy wanted when it was blessed; empty = none. ``policy_digest`` names
    that policy among those that the state keeps; empty = blessed by a release that kept none, or not blessed. A retired
    version never serves; ``held_line`` says that it was a MAJOR line of its own when it was retired.
    """

    number: Number
    uri: str
    digest: str
    size_bytes: int
    format: str
    blessed: bool = False
    approved: bool = False
    approval: str = ""
    policy_digest: str = ""
    retired: bool = False
    held_line: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptPolicy:
    """A policy that versions were blessed with; many versions share one."""

    digest: str
    policy: DeliveryPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerStatus:
    """The model server of a version, as the model host says."""

    number: Number
    endpoint: str
    ready: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A version's share of one line's traffic."""

    number: Number
    role: Role
    weight_millionths: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """The route of one MAJOR line; ``fallback`` answers what the candidate can't."""

    major: int
    arms: tuple[Arm, ...]
    fallback: Number | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """The route table in force; (epoch, revision) orders routes.

    ``draining`` are versions of earlier routes that a proxy may still send to until this one is acknowledged.
    """

    epoch: int = 0
    revision: int = 0
    lines: tuple[Line, ...] = ()
    endpoints: tuple[tuple[Number, str], ...] = ()
    acknowledged: bool = True
    draining: tuple[Number, ...] = ()

    def versions(self) -> tuple[Number, ...]:
        """Return the versions that the route names."""
        named = {arm.number for line in self.lines for arm in line.arms}
        named |= {line.fallback for line in self.lines if line.fallback is not None}
        return tuple(sorted(named))


@dataclass(frozen=True, kw_only=True, slots=True)
class Blessed:
    """A blessed version that waits for its turn; ``cause_id`` is the event that blessed it."""

    number: Number
    policy: DeliveryPolicy
    cause_id: str
    rollout_id: str
    correlation_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceItem:
    """What one guard knew when something was decided (the fields of the contract's Evidence)."""

    guard: str
    e_value: float
    threshold: float
    candidate_estimate: float = 0.0
    stable_estimate: float = 0.0
    candidate_count: int = 0
    stable_count: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One attempt to take a candidate to 100 %.

    ``step_acknowledged_s`` is when the proxies had this step's route; ``resume_phase`` is where PAUSED and HOLDING go
    back to; ``ending`` is the terminal phase that ROLLING_BACK leads to. ``waiting`` says what keeps the candidate's
    server from starting, since ``waiting_since_s``; ``waited_s`` is how long it did so before.
    """

    rollout_id: str
    correlation_id: str
    candidate: Number
    stable: Number | None
    strategy: str
    steps: tuple[float, ...]
    bake_s: float
    policy: DeliveryPolicy
    phase: Phase
    began_s: float
    approval: str = ""
    step_index: int = 0
    step_acknowledged_s: float | None = None
    evidence: tuple[EvidenceItem, ...] = ()
    heartbeat_s: float = 0.0
    resume_phase: Phase | None = None
    ending: Phase | None = None
    breached_guard: str = ""
    waiting: str = ""
    waiting_since_s: float | None = None
    waited_s: float = 0.0

    @property
    def has_traffic(self) -> bool:
        """Say whether the candidate has (or had, while paused or held) live traffic."""
        phase = self.resume_phase if self.phase in {Phase.PAUSED, Phase.HOLDING} else self.phase
        return phase in {Phase.STEPPING, Phase.SETTLING, Phase.ROLLING_BACK}


@dataclass(frozen=True, kw_only=True, slots=True)
class Retired:
    """What a model that was taken out of service comes back with."""

    stable: Number | None
    retained: tuple[Number, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelState:
    """Everything that decisions about one model are made from."""

    model: str
    versions: tuple[KnownVersion, ...] = ()
    stable: Number | None = None
    previous_stable: Number | None = None
    retained: tuple[Number, ...] = ()
    servers: tuple[ServerStatus, ...] = ()
    rollout: Rollout | None = None
    queue: tuple[Blessed, ...] = ()
    route: Route = field(default_factory=Route)
    sequence: int = 0
    breached: tuple[Number, ...] = ()
    rollout_ids: tuple[str, ...] = ()
    request_ids: tuple[str, ...] = ()
    policies: tuple[KeptPolicy, ...] = ()
    retired: Retired | None = None

    def version(self, number: Number) -> KnownVersion | None:
        """Return a known version, or None."""
        return next((version for version in self.versions if version.number == number), None)

    def with_version(self, version: KnownVersion) -> ModelState:
        """Return the state with ``version`` in place of what was known of its number."""
        versions = tuple(version if one.number == version.number else one for one in self.versions)
        return replace(self, versions=versions)

    def ready_endpoint(self, number: Number) -> str:
        """Return where ``number`` answers, or "" if it is not ready."""
        return next((server.endpoint for server in self.servers if server.number == number and server.ready), "")

    def wanted_servers(self) -> tuple[Number, ...]:
        """Return the versions whose server must run; level-triggered, so it can be acted on again at any time."""
        wanted = {*self.route.versions(), *self.route.draining, *self.retained}
        if self.stable is not None:
            wanted.add(self.stable)
        if self.rollout is not None:
            wanted.add(self.rollout.candidate)
            if self.rollout.stable is not None:
                wanted.add(self.rollout.stable)
        return tuple(sorted(wanted))


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """One RolloutStep to publish."""

    rollout: Rollout
    sequence: int
    arms: tuple[Arm, ...]
    route_epoch: int
    route_revision: int
    reason: str
    cause: str
    time_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RetirementRecord:
    """One RetirementChanged to publish; ``number`` None = the whole model."""

    number: Number | None
    is_retired: bool
    sequence: int
    route_epoch: int
    route_revision: int
    actor: str
    reason: str
    cause: str
    time_s: float
    rollout_id: str
    request_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What follows from an event: the state to keep, the steps to publish, whether the route is a new one, and why.

    ``code`` is the stable reason of a command that changes nothing, where callers tell reasons apart.
    """

    state: ModelState
    steps: tuple[StepRecord, ...] = ()
    route_changed: bool = False
    reason: str = ""
    code: str = ""
    retirement: RetirementRecord | None = None
