"""Strategies: how a kind of change becomes a row of shares, each of which the candidate must earn."""

from __future__ import annotations

from typing import Final

from tidegate.deployer.state import DeliveryPolicy, Number, Strategy
from tidegate.deployer.strategies import blue_green, canary

_STEPS: Final = {"blue_green": blue_green.steps, "canary": canary.steps}


def strategy_for(candidate: Number, stable: Number | None, policy: DeliveryPolicy) -> Strategy:
    """Return the strategy of the policy for this kind of change, with its steps.

    Between MAJOR lines only a switch is possible: they have different signatures, so they can't share traffic.
    """
    if stable is None:
        wanted = policy.on_first
    elif candidate.major != stable.major:
        wanted = policy.on_major
    elif candidate.minor != stable.minor:
        wanted = policy.on_minor
    else:
        wanted = policy.on_pipeline
    crosses_lines = stable is None or candidate.major != stable.major
    name = "blue_green" if crosses_lines else wanted.name
    approval = wanted.approval or _approval(candidate, stable, policy)
    return Strategy(name=name, steps=_STEPS[name](wanted), bake_s=wanted.bake_s, approval=approval)


def _approval(candidate: Number, stable: Number | None, policy: DeliveryPolicy) -> str:
    if stable is None:
        return ""
    major, minor, pipeline = policy.approvals
    if candidate.major != stable.major:
        wanted = major
    elif candidate.minor != stable.minor:
        wanted = minor
    else:
        wanted = pipeline
    return "approver" if wanted else ""
