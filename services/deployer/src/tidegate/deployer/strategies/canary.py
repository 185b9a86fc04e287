"""Canary: step by step, each step held until it has baked and the monitor has evidence."""

from __future__ import annotations

from datetime import datetime, timedelta

from tidegate.deployer.state import Rollout


def why_not_advance(rollout: Rollout, *, route_acknowledged: bool, time: datetime) -> str:
    """Return what keeps a step from its successor; empty = nothing. Time alone never suffices: evidence is wanted."""
    if not route_acknowledged or rollout.applied_time is None:
        return "the proxies have not all acknowledged the route"
    if not rollout.evidence_reached:
        return "the monitor has no evidence yet"
    baked = rollout.applied_time + timedelta(seconds=rollout.strategy.bake_s)
    return f"the step bakes for {(baked - time).total_seconds():g} s more" if time < baked else ""


def last_index(rollout: Rollout) -> int:
    """Return the index of the step that takes all traffic."""
    return len(rollout.strategy.steps) - 1
