"""A candidate whose server has no room yet: it waits, says for what, and is not ended for it. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tidegate.deployer import progress
from tidegate.deployer.events import ServerChanged
from tidegate.deployer.state import Decision, ModelState, Phase, Rollout

CODE: Final = "WAITING_FOR_SERVER"


def is_before_its_server(rollout: Rollout) -> bool:
    """Say whether the rollout has not seen its candidate ready, also while it is paused."""
    return (rollout.resume_phase or rollout.phase) is Phase.STARTING


def changed(state: ModelState, event: ServerChanged) -> Decision:
    """Return what follows when the candidate's server begins to wait for room, or has got it."""
    rollout = state.rollout
    if rollout is None or rollout.waiting == event.waiting:
        why = f"the server of {event.number} {f'waits: {event.waiting}' if event.waiting else 'is not ready'}"
        return progress.follow_route(state, why, event.time_s, event.cause)
    if not event.waiting:
        why = f"there is room for the server of {event.number}; it starts"
        return progress.published(ended(state, event.time_s), why, event.time_s, event.cause, route_changed=False)
    since_s = event.time_s if rollout.waiting_since_s is None else rollout.waiting_since_s
    waits = replace(state, rollout=replace(rollout, waiting=event.waiting, waiting_since_s=since_s))
    why = f"{CODE}: {event.number} starts as soon as there is room: {event.waiting}"
    return progress.published(waits, why, event.time_s, event.cause, route_changed=False)


def ended(state: ModelState, time_s: float) -> ModelState:
    """Return the state in which the rollout waits no more."""
    rollout = state.rollout
    if rollout is None or rollout.waiting_since_s is None:
        return state
    rested = replace(rollout, waiting="", waiting_since_s=None, waited_s=waited_s(rollout, time_s))
    return replace(state, rollout=rested)


def waited_s(rollout: Rollout, time_s: float) -> float:
    """Return how long the rollout has waited for room until now: that is no time of its own."""
    now_s = 0.0 if rollout.waiting_since_s is None else max(0.0, time_s - rollout.waiting_since_s)
    return rollout.waited_s + now_s
