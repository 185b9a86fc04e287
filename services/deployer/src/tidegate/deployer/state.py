"""What the deployer knows of one model: frozen values, no behaviour beyond checking themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

WEIGHT_TOTAL: Final = 1_000_000


class Phase(StrEnum):
    """Where a rollout stands; the names are those of the contract without ``PHASE_``."""

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


class Change(StrEnum):
    """How a candidate differs from the stable version."""

    FIRST = "FIRST"
    MAJOR = "MAJOR"
    MINOR = "MINOR"
    PIPELINE = "PIPELINE"


class Role(StrEnum):
    """Role of a version on a line."""

    STABLE = "STABLE"
    CANDIDATE = "CANDIDATE"


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """MAJOR.MINOR.PIPELINE."""

    major: int
    minor: int
    pipeline: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.pipeline}"

    @classmethod
    def parse(cls, text: str) -> Version:
        """Return the version written as MAJOR.MINOR.PIPELINE."""
        major, minor, pipeline = (int(part) for part in text.split("."))
        return cls(major, minor, pipeline)


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """What a server loads."""

    uri: str
    digest: str
    size_bytes: int = 0
    format: str = "onnx"


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """One way to deliver; ``steps`` are the candidate's weights in millionths, rising, the last one is all."""

    name: str
    steps: tuple[int, ...]
    bake_s: float
    approval: str = ""

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip(self.steps, self.steps[1:], strict=False))
        if not self.steps or not rising or self.steps[0] <= 0 or self.steps[-1] != WEIGHT_TOTAL:
            raise ValueError(f"steps are {self.steps}, expected weights that rise from above 0 to {WEIGHT_TOTAL}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What the policy of a model says about delivery. ``guards`` is opaque: it is handed on to the monitor."""

    revision: int
    mode: str
    on_first: Strategy
    on_major: Strategy
    on_minor: Strategy
    on_pipeline: Strategy
    deadline_s: float
    settle_s: float
    holdback: int
    on_breach: str
    mid_rollout: str
    approvals_major: int = 0
    approvals_minor: int = 0
    approvals_pipeline: int = 0
    load_timeout_s: float = 60.0
    memory_mib_max: int = 0
    min_sandbox: str = ""
    runtime: str = ""
    guards: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownVersion:
    """One version: what it is, what was said about it, and where it answers (empty: its server is not ready)."""

    version: Version
    artifact: Artifact | None = None
    policy: Policy | None = None
    endpoint: str = ""
    approved_by: tuple[str, ...] = ()
    rejected: bool = False
    breached: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What one guard knew when it spoke."""

    guard: str
    e_value: float
    threshold: float
    candidate_estimate: float
    stable_estimate: float
    candidate_count: int
    stable_count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteArm:
    """One version on a line; ``weight`` in millionths."""

    version: Version
    role: Role
    weight: int
    endpoint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteLine:
    """The route of one MAJOR line; requests that the candidate fails are answered by ``fallback``."""

    major: int
    arms: tuple[RouteArm, ...]
    fallback: Version | None = None

    def __post_init__(self) -> None:
        total = sum(arm.weight for arm in self.arms)
        if total != WEIGHT_TOTAL:
            raise ValueError(f"weights of line {self.major} sum to {total}, expected {WEIGHT_TOTAL}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """The route table in force, ordered by (epoch, revision); ``acknowledged`` by every leased proxy."""

    epoch: int = 0
    revision: int = 0
    lines: tuple[RouteLine, ...] = ()
    acknowledged: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One attempt to take a candidate to 100 %.

    ``weight`` is the candidate's, in millionths. ``held_phase`` is where HOLDING, PAUSED and AWAITING_APPROVAL return
    to; ``last_phase`` is how ROLLING_BACK will end. ``step_route`` is the (epoch, revision) that began this step.
    """

    rollout_id: str
    candidate: Version
    stable: Version | None
    change: Change
    strategy: Strategy
    policy: Policy
    phase: Phase
    begin_time: datetime
    step_index: int = 0
    weight: int = 0
    step_epoch: int = 0
    step_revision: int = 0
    applied_time: datetime | None = None
    evidence_reached: bool = False
    heartbeat_time: datetime | None = None
    held_phase: Phase | None = None
    hold_time: datetime | None = None
    last_phase: Phase | None = None
    reached_all: bool = False
    breached_guard: str = ""
    full_wanted: bool = False

    @property
    def breached(self) -> bool:
        """Say whether a guard breached: then this rollout never goes up again."""
        return bool(self.breached_guard)


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """A blessed version that waits for its turn; ``commanded`` by a person, ``instant`` skips steps and approval."""

    rollout_id: str
    version: Version
    commanded: bool = False
    instant: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Retiring:
    """A version off the routes whose server waits for the acknowledgement, then for the drain."""

    version: Version
    epoch: int
    revision: int
    free_time: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelState:
    """All of one model. ``lines`` holds the settled version of each MAJOR, the one of ``stable`` answers unversioned."""

    model: str
    versions: tuple[KnownVersion, ...] = ()
    lines: tuple[Version, ...] = ()
    stable: Version | None = None
    previous_stable: Version | None = None
    active: Rollout | None = None
    queue: tuple[Queued, ...] = ()
    retiring: tuple[Retiring, ...] = ()
    route: Route = field(default_factory=Route)
    sequence: int = 0
    seen_requests: tuple[str, ...] = ()
    seen_rollouts: tuple[str, ...] = ()

    def known(self, version: Version) -> KnownVersion | None:
        """Return what is known of ``version``, or None."""
        return next((known for known in self.versions if known.version == version), None)

    def endpoint(self, version: Version) -> str:
        """Return where ``version`` answers; empty: nowhere."""
        known = self.known(version)
        return known.endpoint if known is not None else ""
