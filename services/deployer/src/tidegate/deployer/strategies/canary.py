"""Canary: the candidate earns one share after the other, by time and by evidence."""

from __future__ import annotations

from tidegate.deployer.state import Rollout, Strategy


def steps(strategy: Strategy) -> tuple[float, ...]:
    """Return the shares, rising, the last one 1.0."""
    return strategy.steps or (1.0,)


def is_step_earned(rollout: Rollout, now_s: float) -> bool:
    """Say whether the step's route is acknowledged, was baked long enough and has its evidence."""
    if rollout.step_acknowledged_s is None or not rollout.evidence:
        return False
    return now_s - rollout.step_acknowledged_s >= rollout.bake_s
