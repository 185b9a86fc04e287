"""What the monitor shows of the evidence that it gathers."""

from __future__ import annotations

import math

import pytest
from prometheus_client import REGISTRY

from tidegate.monitor.judges.values import Evidence, Kind
from tidegate.monitor.metrics import GUARDS_MAX, WatchGauges, progress_ratio


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def evidence(guard: str, e_value: float) -> Evidence:
    return Evidence(
        guard=guard,
        kind=Kind.CONCURRENT,
        e_value=e_value,
        threshold=400.0,
        candidate_estimate=0.0,
        stable_estimate=0.0,
        candidate_count=0,
        stable_count=0,
    )


@pytest.mark.parametrize(
    ("e_value", "threshold", "ratio"),
    [(1.0, 400.0, 0.0), (400.0, 400.0, 1.0), (20.0, 400.0, 0.5), (0.05, 400.0, -0.5), (5.0, 1.0, 0.0)],
)
def test_progress_is_0_without_evidence_and_1_at_the_threshold(e_value, threshold, ratio):
    assert progress_ratio(e_value, threshold) == pytest.approx(ratio)


def test_progress_of_no_wealth_at_all_is_finite():
    assert math.isfinite(progress_ratio(0.0, 400.0))


def test_guards_are_shown_while_their_rollout_is_watched():
    gauges = WatchGauges()
    gauges.show("watched", [evidence("error_rate", 20.0), evidence("latency_ms", 1.0)])
    gauges.keep_only(["watched"], rollouts=1)
    assert value("tidegate_monitor_guard_progress_ratio", model="watched", guard="error_rate") == pytest.approx(0.5)
    assert value("tidegate_monitor_guard_progress_ratio", model="watched", guard="latency_ms") == 0.0
    assert value("tidegate_monitor_rollouts_watched") == 1
    began = value("tidegate_monitor_last_evidence_timestamp_seconds", model="watched")
    gauges.seen("watched")
    assert value("tidegate_monitor_last_evidence_timestamp_seconds", model="watched") >= began > 0
    gauges.keep_only([], rollouts=0)
    assert value("tidegate_monitor_guard_progress_ratio", model="watched", guard="error_rate") is None
    assert value("tidegate_monitor_last_evidence_timestamp_seconds", model="watched") is None


def test_a_policy_with_many_guards_does_not_flood_the_metrics():
    gauges = WatchGauges()
    gauges.show("many", [evidence(f"outcome_{number}", 1.0) for number in range(3 * GUARDS_MAX)])
    shown = [
        sample
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "tidegate_monitor_guard_progress_ratio" and sample.labels["model"] == "many"
    ]
    assert len(shown) == GUARDS_MAX
    gauges.keep_only([], rollouts=0)
