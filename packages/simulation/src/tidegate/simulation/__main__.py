"""``python -m tidegate.simulation``: simulate seeds, tell of the first that breaks an invariant."""

from __future__ import annotations

import argparse
import os
import sys

from tidegate.simulation.runner import Summary, run_seeds, table
from tidegate.simulation.simulation import Result, simulate

PROGRESS_EVERY = 500


def main(arguments: list[str] | None = None) -> int:
    """Run; return 1 if an invariant was broken."""
    options = _options(arguments)
    if options.seed is not None and options.seeds == 1:
        result = simulate(options.seed, is_told=True)
        _print(*result.lines)
        return _tell_failure(result) if result.broken else 0
    first = options.seed or 0
    summary = run_seeds(range(first, first + options.seeds), jobs=options.jobs, on_progress=_progress)
    _print(*table(summary.coverage), "")
    told = f"{summary.seeds:,} seeds from {first}, {summary.steps:,} events"
    if not summary.failures:
        _print(f"{told}: no invariant was broken")
        return 0
    _print(f"{told}: {summary.broken} seeds broke an invariant")
    for result in summary.failures[1:]:
        _print(f"  seed {result.seed}: {result.told}")
    worst = simulate(summary.failures[0].seed, is_told=True)
    _print("", *worst.lines)
    return _tell_failure(worst)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tidegate.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=None, help="how many (default 1,000; 1 with --seed)")
    parser.add_argument("--seed", type=int, default=None, help="the first one; alone: print its transcript")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    options = parser.parse_args(arguments)
    if options.seeds is None:
        options.seeds = 1000 if options.seed is None else 1
    if options.seeds < 1 or options.jobs < 1:
        parser.error(f"--seeds is {options.seeds} and --jobs is {options.jobs}, expected at least 1")
    return options


def _progress(summary: Summary, last: Result) -> None:
    if last.broken:
        sys.stderr.write(f"seed {last.seed}: {last.told}\n")
    if summary.seeds % PROGRESS_EVERY == 0:
        sys.stderr.write(f"{summary.seeds:,} seeds, {summary.broken} broken\n")


def _tell_failure(result: Result) -> int:
    _print(
        "",
        f"broken invariant: {result.told}",
        f"reproduce it with: python -m tidegate.simulation --seed {result.seed}",
    )
    return 1


def _print(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
