"""The values of the judge: what arrives (batches), what is remembered (state), what follows (findings)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np

from tidegate.monitor.judges.absolute import Absolute
from tidegate.monitor.judges.clients import Clients, Flags, Units
from tidegate.monitor.judges.latency import EMPTY, Ceiling, Histogram, Latencies, Latency, watched_levels
from tidegate.monitor.judges.noninferiority import NonInferiority
from tidegate.monitor.judges.two_sample import Block, TwoSample

ERROR_RATE: Final = "error_rate"
LATENCY_MS: Final = "latency_ms"
CLIENT_ERRORS: Final = "client_errors"
STEP_REQUESTS_MIN: Final = 50

Route = tuple[int, int]


class Kind(StrEnum):
    """What a guard compares with."""

    CONCURRENT = "concurrent"
    ABSOLUTE = "absolute"


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """One guard of the policy; 0 switches a bound off, except ``margin``, where it means "no worse at all"."""

    metric: str
    margin: float = 0.0
    floor: float = 0.0
    quantile: float = 0.99
    ratio: float = 0.0
    ceiling: float = 0.0

    def kinds(self) -> tuple[Kind, ...]:
        """Return what this guard compares with; empty for a metric that needs outcomes, which are not seen here."""
        match self.metric:
            case "error_rate":
                return (Kind.CONCURRENT, Kind.ABSOLUTE) if self.floor > 0 else (Kind.CONCURRENT,)
            case "latency_ms":
                concurrent = (Kind.CONCURRENT,) if self.ratio > 0 else ()
                return (*concurrent, Kind.ABSOLUTE) if self.ceiling > 0 else concurrent
            case "client_errors":
                # Beside stable they are failures as any other: error_rate compares them.
                return (Kind.ABSOLUTE,)
            case _:
                return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What is judged: the guards of a rollout, its alpha, and the least requests of a step."""

    guards: tuple[Guard, ...]
    alpha: float = 0.01
    step_requests_min: int = STEP_REQUESTS_MIN

    def threshold(self, guard: Guard) -> float:
        """Return the e-value that breaches ``guard``: alpha is split over all guards, then over the kinds of a guard.

        Client errors spend half of theirs on the past's confidence limit. By Ville's inequality and the union bound the
        whole rollout breaches falsely with probability at most alpha.
        """
        parts = 2 if guard.metric == CLIENT_ERRORS else max(1, len(guard.kinds()))
        return len(self.guards) * parts / self.alpha

    @property
    def promotion_threshold(self) -> float:
        """Return the e-value that promotes.

        All guards must reach it, so alpha needs no split (intersection-union test).
        """
        return 1.0 / self.alpha


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmBatch:
    """One arm's requests in a batch, by assignment.

    ``failures`` were answered with anything but 2xx, ``broken`` with 500 and above or not at all; ``latencies_us``
    are of the 2xx ones. ``units`` and ``client_errors`` (4xx) have one entry a request, in order of time.
    """

    requests: int
    failures: int
    broken: int
    latencies_us: Latencies
    first_failure_us: int = 0
    units: Units = field(default_factory=lambda: np.array([], dtype=np.uint64))
    client_errors: Flags = field(default_factory=lambda: np.array([], dtype=np.bool_))


def empty_arm() -> ArmBatch:
    """Return an arm without traffic."""
    return ArmBatch(requests=0, failures=0, broken=0, latencies_us=np.array([], dtype=np.uint64))


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Requests of one route revision; times in microseconds since the epoch, ``offset`` in the partition."""

    route: Route
    start_us: int
    end_us: int
    partition: int
    offset: int
    concurrent: bool
    candidate: ArmBatch
    stable: ArmBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A block that is not closed yet; ``blocks`` has one entry a watched level."""

    route: Route
    concurrent: bool
    start_us: int
    end_us: int
    offsets: tuple[int, int]
    blocks: tuple[Block | None, ...]
    stable: Histogram = EMPTY
    candidate: Histogram = EMPTY


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What was counted so far, for people: requests and failures by arm and kind."""

    candidate_requests: int = 0
    candidate_failures: int = 0
    stable_requests: int = 0
    stable_failures: int = 0
    candidate: Histogram = EMPTY
    stable: Histogram = EMPTY


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardState:
    """What one guard knows."""

    concurrent: TwoSample | Latency | None = None
    absolute: Absolute | Ceiling | None = None
    promotion: NonInferiority | None = None
    promotion_inputs: str = ""
    pending: Pending | None = None
    tallies: tuple[Tally, Tally] = field(default_factory=lambda: (Tally(), Tally()))
    first_bad_us: int = 0
    breached: bool = False
    clients: Clients | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StepState:
    """What was counted at the newest route revision with concurrent traffic."""

    route: Route = (0, 0)
    start_us: int = 0
    candidate_requests: int = 0
    reached: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Everything that the judge of one rollout remembers; ``offset`` is the last batch that counted."""

    rules: Rules
    guards: tuple[GuardState, ...]
    step: StepState = field(default_factory=StepState)
    offset: int = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What one guard knows, as numbers; estimates in the guard's unit (a share, or milliseconds)."""

    guard: str
    kind: Kind
    e_value: float
    threshold: float
    candidate_estimate: float
    stable_estimate: float
    candidate_count: int
    stable_count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A breach, or evidence reached; ``inputs_json`` gives the same e-value again (see replay.py)."""

    evidence: Evidence
    inputs_json: str
    first_evidence_us: int
    route: Route


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What follows from a batch."""

    state: State
    breaches: tuple[Finding, ...]
    reached: Finding | None
    reason: str


def start(rules: Rules) -> State:
    """Return the state of a rollout that has had no traffic."""
    return State(rules=rules, guards=tuple(_start_guard(guard) for guard in rules.guards))


def _start_guard(guard: Guard) -> GuardState:
    kinds = guard.kinds()
    has_bound = Kind.ABSOLUTE in kinds
    if guard.metric == ERROR_RATE:
        promotion = NonInferiority() if guard.margin > 0 else None
        absolute = Absolute() if has_bound else None
        return GuardState(concurrent=TwoSample(), absolute=absolute, promotion=promotion)
    if guard.metric == CLIENT_ERRORS:
        return GuardState(absolute=Ceiling(), clients=Clients())
    concurrent = Latency(levels=watched_levels(guard.quantile)) if Kind.CONCURRENT in kinds else None
    return GuardState(concurrent=concurrent, absolute=Ceiling() if has_bound else None)
