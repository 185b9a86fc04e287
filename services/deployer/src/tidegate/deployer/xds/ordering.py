"""In which order one proxy gets its resources; pure.

Clusters are added, then routes change, then clusters are removed; each waits for the acknowledgement of what stands
before it, and only one push is under way. A cluster goes only when no request can need it any more: one that is under
way when its route changes may still fall back, and a retry through a cluster that is gone would be our failure.

Every push is planned anew from what the proxy has acknowledged, so a table that arrives in the middle of a shift (a
rollback!) is simply the next plan's aim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelResources:
    """Clusters and routes of one model at one revision of its table, serialized."""

    model: str
    epoch: int
    revision: int
    clusters: Mapping[str, bytes]
    routes: tuple[bytes, ...]

    @property
    def key(self) -> tuple[int, int]:
        """What orders the tables of a model."""
        return self.epoch, self.revision


Models: TypeAlias = Mapping[str, ModelResources]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterPush:
    """All clusters that the proxy shall have next, and the models for which they are."""

    clusters: Mapping[str, bytes]
    models: Models


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutePush:
    """All models whose routes the proxy shall have next."""

    models: Models


Push: TypeAlias = ClusterPush | RoutePush


@dataclass(frozen=True, kw_only=True, slots=True)
class Draining:
    """A cluster that requests under way may need ``until`` (by the caller's clock, seconds)."""

    body: bytes
    until: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyState:
    """What one proxy is known to have; None = not known, so it must be sent."""

    clusters: Mapping[str, bytes] | None = None
    models: Models | None = None
    routes_subscribed: bool = False
    draining: Mapping[str, Draining] = field(default_factory=dict)
    """Clusters that no route names any more, by name."""
    outstanding: Push | None = None
    refused: Push | None = None
    """The push that the proxy refused last: never sent again unchanged."""
    one_at_a_time: bool = False
    """True while a refusal could be the fault of several models: they go alone until all are through."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """State after a refusal, and the models found guilty (none while there are several suspects)."""

    state: ProxyState
    guilty: tuple[ModelResources, ...] = field(default=())


def plan(state: ProxyState, desired: Models, now_s: float) -> Push | None:
    """Return what to send now to bring the proxy to ``desired``, or None: wait, or all is there."""
    if state.outstanding is not None:
        return None
    push = _next_push(state, _aim(state, desired), now_s)
    return None if push is not None and push == state.refused else push


def on_sent(state: ProxyState, push: Push) -> ProxyState:
    """Return the state after ``push`` was sent."""
    return replace(state, outstanding=push)


def on_accepted(state: ProxyState, desired: Models, *, drained_s: float) -> ProxyState:
    """Return the state after the proxy acknowledged what is outstanding.

    ``drained_s`` is when the last request under way through a cluster that loses its route now has ended.
    """
    match state.outstanding:
        case None:
            return state
        case ClusterPush(clusters=clusters):
            draining = {name: known for name, known in state.draining.items() if name in clusters}
            state = replace(state, clusters=clusters, draining=draining, outstanding=None, refused=None)
        case RoutePush(models=models):
            named = clusters_of(models)
            draining = {
                name: state.draining.get(name) or Draining(body=body, until=drained_s)
                for name, body in (state.clusters or {}).items()
                if name not in named
            }
            state = replace(state, models=models, draining=draining, outstanding=None, refused=None)
    return replace(state, one_at_a_time=False) if not _differing(state, desired) else state


def on_refused(state: ProxyState) -> Refusal:
    """Return what follows when the proxy refused what is outstanding."""
    push = state.outstanding
    if push is None:
        return Refusal(state=state)
    changed = [model for model in sorted(push.models) if (state.models or {}).get(model) != push.models[model]]
    # Envoy takes the good clusters of a refused response, so what it has is not known any more.
    clusters = None if isinstance(push, ClusterPush) else state.clusters
    state = replace(state, clusters=clusters, outstanding=None, refused=push)
    if len(changed) > 1:
        return Refusal(state=replace(state, one_at_a_time=True, refused=None))
    return Refusal(state=state, guilty=tuple(push.models[model] for model in changed))


def is_settled(state: ProxyState, resources: ModelResources) -> bool:
    """Say whether the proxy routes by ``resources``; clusters that drain may still be there."""
    if state.models is None or state.clusters is None or not state.routes_subscribed:
        return False
    if state.models.get(resources.model) != resources:
        return False
    return all(state.clusters.get(name) == body for name, body in resources.clusters.items())


def clusters_of(models: Models) -> dict[str, bytes]:
    """Return the clusters of all ``models``."""
    return {name: body for model in sorted(models) for name, body in models[model].clusters.items()}


def _next_push(state: ProxyState, aim: Models, now_s: float) -> Push | None:
    wanted = clusters_of(aim)
    kept = {name: known.body for name, known in state.draining.items() if known.until > now_s}
    if state.clusters is None or any(state.clusters.get(name) != body for name, body in wanted.items()):
        return ClusterPush(clusters={**kept, **clusters_of(state.models or {}), **wanted}, models=aim)
    if state.models != aim:
        return RoutePush(models=aim) if state.routes_subscribed else None
    if set(state.clusters) != {*kept, *wanted}:
        return ClusterPush(clusters={**kept, **wanted}, models=aim)
    return None


def _aim(state: ProxyState, desired: Models) -> Models:
    differing = _differing(state, desired)
    if not state.one_at_a_time or len(differing) <= 1:
        return desired
    first = differing[0]
    aim = {model: resources for model, resources in (state.models or {}).items() if model != first}
    return {**aim, first: desired[first]} if first in desired else aim


def _differing(state: ProxyState, desired: Models) -> list[str]:
    held = state.models or {}
    return [model for model in sorted({*held, *desired}) if held.get(model) != desired.get(model)]
