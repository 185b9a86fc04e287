"""Which rollouts of a model are watched, and which of their routes a batch belongs to. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import Enum, auto
from typing import Any, Final

from tidegate.monitor.judges.state_json import read_state, write_state
from tidegate.monitor.judges.values import Route, Rules, State, start

ROUTES_MAX: Final = 64
RECENT_IDS_MAX: Final = 64
FORMAT: Final = 1

__all__ = ["Fit", "ModelState", "Rollout", "Route", "RouteFacts", "StepFacts"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteFacts:
    """What a step said of its route: whether stable has traffic beside the candidate, and the candidate's weight."""

    route: Route
    concurrent: bool
    weight_millionths: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFacts:
    """What the monitor needs of a RolloutStep; ``dormant`` = not begun, ``terminal`` = over."""

    rollout_id: str
    model: str
    sequence: int
    correlation_id: str
    candidate: str
    stable: str
    phase: str
    dormant: bool
    terminal: bool
    route: RouteFacts
    rules: Rules


class Fit(Enum):
    """Whether a batch belongs to a rollout."""

    KNOWN = auto()  # a step named its route
    NEWER = auto()  # no step has named its route yet
    OLDER = auto()  # its route was before this rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """A rollout under watch, with the routes that its steps named, oldest first."""

    rollout_id: str
    correlation_id: str
    candidate: str
    stable: str
    phase: str
    routes: tuple[RouteFacts, ...]
    judge: State

    @property
    def newest(self) -> RouteFacts:
        """Return the route of the newest step."""
        return self.routes[-1]

    def fit(self, route: Route) -> tuple[Fit, RouteFacts]:
        """Say whether ``route`` is one of this rollout, and what is known (or, if newer, best assumed) of it."""
        for facts in reversed(self.routes):
            if facts.route == route:
                return Fit.KNOWN, facts
        return (Fit.NEWER if route > self.newest.route else Fit.OLDER), self.newest


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelState:
    """Everything that is remembered of one model.

    ``offset`` is the last batch that was handled and ``recent_ids`` the ids of the last batches, because a producer
    that was not told of success sends a batch again, at another offset.
    """

    model: str
    partition: int
    sequence: int = -1
    offset: int = -1
    recent_ids: tuple[str, ...] = ()
    rollouts: tuple[Rollout, ...] = ()

    def after_step(self, facts: StepFacts) -> ModelState:
        """Return the state after a step; one that is not newer than the last changes nothing."""
        if facts.sequence <= self.sequence:
            return self
        kept = tuple(one for one in self.rollouts if one.rollout_id != facts.rollout_id)
        if facts.terminal or facts.dormant:
            return replace(self, sequence=facts.sequence, rollouts=kept)
        known = next((one for one in self.rollouts if one.rollout_id == facts.rollout_id), None)
        rollout = _begin(facts) if known is None else _advance(known, facts)
        return replace(self, sequence=facts.sequence, rollouts=(*kept, rollout))

    def has_counted(self, offset: int, event_id: str) -> bool:
        """Say whether a batch was counted before."""
        return offset <= self.offset or event_id in self.recent_ids

    def after_batch(self, offset: int, event_id: str) -> ModelState:
        """Return the state that remembers a batch as counted."""
        recent = (*self.recent_ids, event_id)[-RECENT_IDS_MAX:]
        return replace(self, offset=max(offset, self.offset), recent_ids=recent)

    def with_rollout(self, rollout: Rollout) -> ModelState:
        """Return the state with ``rollout`` in place of its former self."""
        changed = tuple(rollout if one.rollout_id == rollout.rollout_id else one for one in self.rollouts)
        return replace(self, rollouts=changed)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        value = asdict(self)
        for written, rollout in zip(value["rollouts"], self.rollouts, strict=True):
            written["judge"] = write_state(rollout.judge)
        return {"format": FORMAT, **value}


def read_model_state(value: dict[str, Any]) -> ModelState:
    """Return the state that :meth:`ModelState.to_json` gave.

    Raises:
        ValueError: The format is another one.

    """
    if value.get("format") != FORMAT:
        raise ValueError(f"format of the monitor's state is {value.get('format')!r}, expected {FORMAT}")
    return ModelState(
        model=value["model"],
        partition=value["partition"],
        sequence=value["sequence"],
        offset=value["offset"],
        recent_ids=tuple(value["recent_ids"]),
        rollouts=tuple(_read_rollout(one) for one in value["rollouts"]),
    )


def _read_rollout(value: dict[str, Any]) -> Rollout:
    routes = tuple(
        RouteFacts(**{**facts, "route": (facts["route"][0], facts["route"][1])}) for facts in value["routes"]
    )
    return Rollout(**{**value, "routes": routes, "judge": read_state(value["judge"])})


def _begin(facts: StepFacts) -> Rollout:
    return Rollout(
        rollout_id=facts.rollout_id,
        correlation_id=facts.correlation_id,
        candidate=facts.candidate,
        stable=facts.stable,
        phase=facts.phase,
        routes=(facts.route,),
        judge=start(facts.rules),
    )


def _advance(known: Rollout, facts: StepFacts) -> Rollout:
    # A rollout keeps the rules that it began with, so a step changes only where it stands.
    others = tuple(one for one in known.routes if one.route != facts.route.route)
    return replace(known, phase=facts.phase, routes=(*others, facts.route)[-ROUTES_MAX:])
