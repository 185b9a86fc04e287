"""``python -m bench NAME [--quick]``: run one benchmark, print its table, write its results.

Exit codes: 0 every goal holds, 1 one does not or the benchmark failed, 2 wrong usage, 3 a tool that it needs is absent.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import machine, pages, results
from bench.tools import ToolMissing
from tidegate.core.errors import TidegateError

# Module of the same name, function `run(quick=...)`.
NAMES: Final = ("loop", "breach", "envoy", "shifts", "start", "memory", "evidence")
RESULTS: Final = Path(__file__).parent / "results"
QUICK_RESULTS: Final = Path(".tidegate") / "bench"
ALL: Final = "all"
DOCS: Final = "docs"
WIDTH: Final = 160
EXIT_FAILED: Final = 1
EXIT_TOOL_MISSING: Final = 3


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "name",
        choices=(*NAMES, ALL, DOCS),
        help=f"{ALL}: one after the other; {DOCS}: write docs/benchmarks.md from the results",
    )
    parser.add_argument("--quick", action="store_true", help="small counts: shows that it runs, judges no time")
    parser.add_argument("--out", type=Path, help=f"folder of the results (else bench/results; quick: {QUICK_RESULTS})")
    chosen = parser.parse_args()
    if chosen.name == DOCS:
        pages.write_page(chosen.out or RESULTS)
        return 0
    folder = chosen.out or (QUICK_RESULTS if chosen.quick else RESULTS)
    names = NAMES if chosen.name == ALL else (chosen.name,)
    return max(run_one(name, quick=chosen.quick, folder=folder) for name in names)


def run_one(name: str, *, quick: bool, folder: Path) -> int:
    """Run one benchmark, show and write what it says; return the exit code."""
    console = Console(width=WIDTH, highlight=False)
    facts = machine.describe() | {"load_average_start": machine.load_average()}
    try:
        report: results.Report = importlib.import_module(f"bench.{name}").run(quick=quick)
    except ToolMissing as missing:
        print(f"bench {name} is not run: {missing}", file=sys.stderr)
        return EXIT_TOOL_MISSING
    except TidegateError as error:
        print(f"error: bench {name}: {error}", file=sys.stderr)
        return EXIT_FAILED
    facts["load_average_end"] = machine.load_average()
    results.show(report, console, quick=quick)
    path = results.write(report, folder, quick=quick, machine=facts)
    cores, load = facts["cores"], (facts["load_average_start"], facts["load_average_end"])
    console.print(f"{cores} cores of {facts['cpu']}, load average {load[0]} at the start, {load[1]} at the end; {path}")
    broken = report.broken(quick=quick)
    for line in broken:
        print(f"error: {line}", file=sys.stderr)
    return EXIT_FAILED if broken else 0


if __name__ == "__main__":
    sys.exit(main())
