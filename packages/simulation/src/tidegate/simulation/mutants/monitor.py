"""Faults in the monitor: its judges, and how it counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from tidegate.monitor import batches, wire
from tidegate.monitor.judges import judge
from tidegate.simulation.invariants import Invariant
from tidegate.simulation.monitor import Monitor
from tidegate.simulation.mutants.mutant import Mutant, Patch, Patches


def _fallback_counts() -> list[Patch]:
    real = batches._merge  # noqa: SLF001

    def merge(row: Any, attempt: Any) -> None:
        real(row, attempt)
        if not attempt.is_own():
            row.status = attempt.status

    return [(batches, "_merge", merge)]


def _promotes_without_evidence() -> list[Patch]:
    real = judge._reached  # noqa: SLF001

    def reached(state: Any, batch: Any) -> Any:
        rules = replace(state.rules, alpha=1e9)
        guards = tuple(replace(one, promotion=None) for one in state.guards)
        return real(replace(state, rules=rules, guards=guards), batch)

    return [(judge, "_reached", reached)]


def _batch_counts_twice() -> list[Patch]:
    return [(Monitor, "_has_counted", lambda _monitor, _state, _event: False)]


def _fallback_counts_against_stable() -> list[Patch]:
    real = batches._merge  # noqa: SLF001

    def merge(row: Any, attempt: Any) -> None:
        real(row, attempt)
        if not attempt.is_own():
            row.assigned_arm = attempt.answering_arm

    return [(batches, "_merge", merge)]


def _arms_are_mixed_up() -> list[Patch]:
    real = wire.to_batch

    def to_batch(*given: Any, candidate: str, stable: str, concurrent: bool) -> Any:
        return real(*given, candidate=stable, stable=candidate, concurrent=concurrent)

    return [(wire, "to_batch", to_batch)]


def _never_breaches(*, concurrent: bool) -> Patches:
    def patches() -> list[Patch]:
        real = judge._close  # noqa: SLF001

        def close(rules: Any, guard: Any, state: Any, pending: Any, step: Any) -> Any:
            after, finding = real(rules, guard, state, pending, step)
            return (replace(after, breached=False), None) if pending.concurrent is concurrent else (after, finding)

        return [(judge, "_close", close)]

    return patches


MUTANTS: Final = (
    Mutant(
        name="fallback-counts-for-the-candidate",
        promise="evidence is counted by what the assigned arm did",
        patches=_fallback_counts,
        found_by=(Invariant.COUNTED_BY_ASSIGNMENT,),
    ),
    Mutant(
        name="fallback-counts-against-stable",
        promise="evidence is counted by assignment",
        patches=_fallback_counts_against_stable,
        found_by=(Invariant.COUNTED_BY_ASSIGNMENT,),
    ),
    Mutant(
        name="arms-are-mixed-up",
        promise="evidence is counted by assignment",
        patches=_arms_are_mixed_up,
        found_by=(Invariant.COUNTED_BY_ASSIGNMENT,),
    ),
    Mutant(
        name="promotes-without-evidence",
        promise="no evidence is unknown",
        patches=_promotes_without_evidence,
        found_by=(Invariant.NOTHING_IS_UNKNOWN,),
    ),
    Mutant(
        name="batch-counts-twice",
        promise="each batch counts once",
        patches=_batch_counts_twice,
        found_by=(Invariant.BATCHES_COUNT_ONCE,),
    ),
    Mutant(
        name="never-breaches-beside-stable",
        promise="a much worse candidate breaches",
        patches=_never_breaches(concurrent=True),
        found_by=(Invariant.MUCH_WORSE_BREACHES,),
    ),
    Mutant(
        name="never-breaches-alone",
        promise="a much worse candidate breaches where nothing is beside it",
        patches=_never_breaches(concurrent=False),
        found_by=(Invariant.MUCH_WORSE_BREACHES,),
        seed=4,
    ),
)
