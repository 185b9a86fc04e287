"""What clients got of the versions that had all traffic, between rollouts: the past that a jump is told from.

It lives in memory alone. What a rollout begins with is copied into its state, which is saved; after a restart a rollout
knows what it has seen itself, which makes its guard slower, never wrong.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Final

from tidegate.contracts.codec import Event
from tidegate.monitor import wire
from tidegate.monitor.judges.clients import Clients, remember
from tidegate.monitor.rollouts import ModelState
from tidegate.v1.monitoring_events_pb2 import PredictionBatch

VERSIONS_MAX: Final = 10_000


class Past:
    """Client errors by model and version, the ones of longest ago forgotten first."""

    def __init__(self, *, versions_max: int = VERSIONS_MAX) -> None:
        self._versions_max = versions_max
        self._known: OrderedDict[tuple[str, str], Clients] = OrderedDict()

    def add(self, event: Event, message: PredictionBatch) -> None:
        """Count a batch that no rollout watches."""
        for version in sorted(set(message.columns.assigned_arm)):
            arm = wire.to_batch(event, message, candidate=version, stable="", concurrent=False).candidate
            known = self._known.pop((message.model, version), Clients())
            self._known[message.model, version] = remember(known, arm.units, arm.client_errors)
        while len(self._known) > self._versions_max:
            self._known.popitem(last=False)

    def taught(self, state: ModelState, rollout_id: str) -> ModelState:
        """Return the state in which a rollout that has just begun knows the past of its stable version."""
        (rollout,) = (one for one in state.rollouts if one.rollout_id == rollout_id)
        known = self._known.get((state.model, rollout.stable))
        if known is None:
            return state
        guards = tuple(
            guard if guard.clients is None else replace(guard, clients=known) for guard in rollout.judge.guards
        )
        return state.with_rollout(replace(rollout, judge=replace(rollout.judge, guards=guards)))
