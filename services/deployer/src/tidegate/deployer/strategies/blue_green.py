"""Blue/green: all traffic at once, the old version stays warm until the rollback window closes."""

from __future__ import annotations

from datetime import datetime, timedelta

from tidegate.deployer.state import WEIGHT_TOTAL, Rollout, Strategy


def switch_at_once(wanted: Strategy) -> Strategy:
    """Return ``wanted`` as a blue/green switch: one step, to 100 %."""
    return Strategy(name="blue_green", steps=(WEIGHT_TOTAL,), bake_s=wanted.bake_s, approval=wanted.approval)


def why_not_settled(rollout: Rollout, *, route_acknowledged: bool, time: datetime) -> str:
    """Return what keeps the rollback window open; empty = it has closed."""
    if not route_acknowledged or rollout.applied_time is None:
        return "the proxies have not all acknowledged the route"
    closes = rollout.applied_time + timedelta(seconds=rollout.policy.settle_s)
    return f"the rollback window is open for {(closes - time).total_seconds():g} s" if time < closes else ""
