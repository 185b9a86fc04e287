"""Ways to deliver: which shares a candidate gets, chosen by how it differs from stable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tidegate.deployer.state import DeliveryPolicy, Number, Strategy
from tidegate.deployer.strategies import blue_green, canary

_STEPS: Final[dict[str, Callable[[Strategy], tuple[float, ...]]]] = {
    "blue_green": blue_green.steps,
    "canary": canary.steps,
}


def strategy_for(candidate: Number, stable: Number | None, policy: DeliveryPolicy) -> Strategy:
    """Return the way to deliver ``candidate`` after ``stable``, with its steps filled in."""
    if stable is None:
        chosen = policy.on_first
    elif candidate.major != stable.major:
        chosen = policy.on_major
    elif candidate.minor != stable.minor:
        chosen = policy.on_minor
    else:
        chosen = policy.on_pipeline
    return replace(chosen, steps=_STEPS[chosen.name](chosen), approval=_approval(candidate, stable, policy))


def _approval(candidate: Number, stable: Number | None, policy: DeliveryPolicy) -> str:
    """Return whose approval the rollout waits for; empty = nobody's."""
    if stable is None:
        return policy.on_first.approval
    major, minor, pipeline = policy.approvals
    if candidate.major != stable.major:
        return policy.on_major.approval or ("operator" if major else "")
    if candidate.minor != stable.minor:
        return policy.on_minor.approval or ("operator" if minor else "")
    return policy.on_pipeline.approval or ("operator" if pipeline else "")
