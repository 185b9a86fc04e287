"""Aliases: names that move. ``stable`` and ``candidate`` follow rollouts; people move the others."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, update

from tidegate.contracts.codec import derived_event_id
from tidegate.core.clock import utc_now
from tidegate.registry.catalog.outbox import Cause, add_event, next_sequence
from tidegate.registry.catalog.tables import aliases, versions
from tidegate.registry.catalog.versions import aware, is_version
from tidegate.v1.events_pb2 import AliasMoved
from tidegate.v1.registry_service_pb2 import ModelAlias
from tidegate.v1.rollout_events_pb2 import Phase, RolloutStep
from tidegate.v1.values_pb2 import Version

STABLE: Final = "stable"
CANDIDATE: Final = "candidate"
ROLLOUT_ALIASES: Final = frozenset({STABLE, CANDIDATE})

_SERVING: Final = frozenset({Phase.PHASE_SETTLING, Phase.PHASE_PROMOTED})
_TAKEN_BACK: Final = frozenset({Phase.PHASE_ROLLED_BACK, Phase.PHASE_ABORTED, Phase.PHASE_SUPERSEDED})
_NOT_BEGUN: Final = frozenset({Phase.PHASE_UNSPECIFIED, Phase.PHASE_PENDING})
_ENDED: Final = frozenset({Phase.PHASE_PROMOTED, Phase.PHASE_ROLLED_BACK, Phase.PHASE_ABORTED, Phase.PHASE_SUPERSEDED})


@dataclass(frozen=True, kw_only=True, slots=True)
class AliasMove:
    """An alias shall point to ``version``; None removes it."""

    model: str
    alias: str
    version: Version | None
    rollout_id: str = ""


def read_alias(connection: Connection, model: str, alias: str) -> ModelAlias | None:
    """Return the alias, or None if it does not exist."""
    row = connection.execute(select(aliases).where(_is_alias(model, alias))).first()
    return None if row is None else _to_wire(row)


def list_aliases(connection: Connection, models: Collection[str]) -> defaultdict[str, list[ModelAlias]]:
    """Return the aliases of each model, by name."""
    found: defaultdict[str, list[ModelAlias]] = defaultdict(list)
    for row in connection.execute(select(aliases).where(aliases.c.model.in_(models)).order_by(aliases.c.alias)):
        found[row.model].append(_to_wire(row))
    return found


def move_alias(connection: Connection, move: AliasMove, *, cause: Cause, number: int = 0) -> None:
    """Move an alias and say so on the topic, the ``number``-th move of this cause; nothing if it is there already."""
    before = read_alias(connection, move.model, move.alias)
    previous = before.version if before is not None else None
    if previous == move.version:
        return
    where = _is_alias(move.model, move.alias)
    if move.version is None:
        connection.execute(delete(aliases).where(where))
    else:
        values = {
            "major": move.version.major,
            "minor": move.version.minor,
            "pipeline": move.version.pipeline,
            "etag": uuid.uuid4().hex,
            "rollout_id": move.rollout_id,
            "update_time": utc_now(),
        }
        if before is None:
            connection.execute(insert(aliases).values(model=move.model, alias=move.alias, **values))
        else:
            connection.execute(update(aliases).where(where).values(**values))
    moved = AliasMoved(
        model=move.model,
        alias=move.alias,
        version=move.version,
        previous_version=previous,
        actor=cause.actor,
        rollout_id=move.rollout_id,
    )
    event_id = derived_event_id("AliasMoved", cause.id, number)
    add_event(connection, moved, cause=cause, event_id=event_id, sequence=next_sequence(connection, move.model))


def moves_of(step: RolloutStep, *, stable: Version | None, candidate: Version | None) -> list[AliasMove]:
    """Return how a rollout's step moves ``stable`` and ``candidate``, given where they point now (pure)."""
    moves: list[AliasMove] = []
    wanted = step.candidate
    if step.phase in _SERVING and stable != wanted:
        moves.append(AliasMove(model=step.model, alias=STABLE, version=wanted, rollout_id=step.rollout_id))
    # A first version that breached goes on serving until the one that supersedes it takes over.
    serves_on = step.phase == Phase.PHASE_SUPERSEDED and not step.HasField("stable")
    if step.phase in _TAKEN_BACK and stable == wanted and step.stable != wanted and not serves_on:
        back = step.stable if step.HasField("stable") else None
        moves.append(AliasMove(model=step.model, alias=STABLE, version=back, rollout_id=step.rollout_id))
    if step.phase in _ENDED and candidate == wanted:
        moves.append(AliasMove(model=step.model, alias=CANDIDATE, version=None, rollout_id=step.rollout_id))
    if step.phase not in _ENDED | _NOT_BEGUN and candidate != wanted:
        moves.append(AliasMove(model=step.model, alias=CANDIDATE, version=wanted, rollout_id=step.rollout_id))
    return moves


def apply_step(connection: Connection, step: RolloutStep, cause: Cause) -> bool:
    """Move the aliases as the step says; False if it names a version that is not registered."""
    if connection.execute(select(versions.c.id).where(is_version(step.model, step.candidate))).first() is None:
        return False
    stable = read_alias(connection, step.model, STABLE)
    candidate = read_alias(connection, step.model, CANDIDATE)
    moves = moves_of(
        step,
        stable=stable.version if stable is not None else None,
        candidate=candidate.version if candidate is not None else None,
    )
    for number, move in enumerate(moves):
        move_alias(connection, move, cause=cause, number=number)
    return True


def _is_alias(model: str, alias: str) -> Any:
    return (aliases.c.model == model) & (aliases.c.alias == alias)


def _to_wire(row: Any) -> ModelAlias:
    alias = ModelAlias(
        alias=row.alias, version=Version(major=row.major, minor=row.minor, pipeline=row.pipeline), etag=row.etag
    )
    alias.update_time.FromDatetime(aware(row.update_time))
    return alias
