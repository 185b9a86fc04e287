"""Many seeds on many cores, and what they add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Final

from tidegate.simulation.simulation import Result, simulate

CHUNK: Final = 20
FAILURES_MAX: Final = 5


@dataclass(kw_only=True, slots=True)
class Summary:
    """What many seeds add up to; ``failures`` are the first ones, without their transcripts."""

    seeds: int = 0
    steps: int = 0
    broken: int = 0
    failures: list[Result] = field(default_factory=list)
    coverage: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        """Count one seed."""
        self.seeds += 1
        self.steps += result.steps
        self.coverage.update(result.coverage)
        if result.broken:
            self.broken += 1
            if len(self.failures) < FAILURES_MAX:
                self.failures.append(result)


def run_seeds(
    seeds: Iterable[int], *, jobs: int = 1, on_progress: Callable[[Summary, Result], None] | None = None
) -> Summary:
    """Simulate ``seeds`` with ``jobs`` processes; the summary does not depend on how many."""
    summary = Summary()
    for result in _results(list(seeds), jobs):
        summary.add(result)
        if on_progress is not None:
            on_progress(summary, result)
    return summary


def _results(seeds: list[int], jobs: int) -> Iterator[Result]:
    if jobs <= 1:
        yield from map(simulate, seeds)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(simulate, seeds, chunksize=CHUNK)


def table(coverage: Counter[str]) -> list[str]:
    """Return how often each interesting thing happened, one line a thing, by group."""
    lines: list[str] = []
    group = ""
    for name, count in sorted(coverage.items()):
        this, _, what = name.partition(": ")
        if this != group:
            group = this
            lines.append(f"{group}")
        lines.append(f"  {count:>10,}  {what}")
    return lines
