"""Canary: step by step; each step is held until it has baked and the monitor has evidence."""

from __future__ import annotations

from tidegate.deployer.state import Rollout, Strategy


def steps(strategy: Strategy) -> tuple[float, ...]:
    """Return the shares as the policy says."""
    return strategy.steps


def is_step_earned(rollout: Rollout, now_s: float) -> bool:
    """Say whether the step was acknowledged, has baked since, and has evidence; time alone never suffices."""
    if rollout.step_acknowledged_s is None or not rollout.evidence:
        return False
    return now_s - rollout.step_acknowledged_s >= rollout.bake_s
