"""What a guard knows, in numbers for people and events."""

from __future__ import annotations

from tidegate.monitor.judges.latency import Histogram, quantile_us
from tidegate.monitor.judges.replay import to_e_value
from tidegate.monitor.judges.values import CLIENT_ERRORS, ERROR_RATE, Evidence, Guard, GuardState, Kind, Rules


def evidence(rules: Rules, guard: Guard, state: GuardState, kind: Kind) -> Evidence:
    """Return what ``guard`` knows against "no worse" now."""
    process = state.concurrent if kind is Kind.CONCURRENT else state.absolute
    e_value = 1.0 if process is None else to_e_value(process.log_e_value())
    tally = state.tallies[slot(kind)]
    return Evidence(
        guard=guard.metric,
        kind=kind,
        e_value=e_value,
        threshold=rules.threshold(guard),
        candidate_estimate=_estimate(guard, tally.candidate, tally.candidate_failures, tally.candidate_requests),
        stable_estimate=_estimate(guard, tally.stable, tally.stable_failures, tally.stable_requests),
        candidate_count=tally.candidate_requests,
        stable_count=tally.stable_requests,
    )


def slot(kind: Kind) -> int:
    """Return the place of ``kind`` among a guard's tallies."""
    return 0 if kind is Kind.CONCURRENT else 1


def _estimate(guard: Guard, histogram: Histogram, failures: int, requests: int) -> float:
    if guard.metric in {ERROR_RATE, CLIENT_ERRORS}:
        return failures / requests if requests else 0.0
    return quantile_us(histogram, guard.quantile) / 1000.0
