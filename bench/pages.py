"""Puts the committed results into docs/benchmarks.md, between marks, so that the page says what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from bench.results import ROWS, Row, number

PAGE: Final = Path(__file__).parent.parent / "docs" / "benchmarks.md"
_MARKED: Final = re.compile(r"<!-- results: ([a-z]+) -->\n.*?<!-- end -->", re.DOTALL)


def rendered(page: str, results: Path) -> str:
    """Return ``page`` with the table of each marked benchmark written anew from the files in ``results``."""
    return _MARKED.sub(lambda match: f"<!-- results: {match[1]} -->\n{_section(results, match[1])}<!-- end -->", page)


def write_page(results: Path) -> None:
    """Write the page anew."""
    PAGE.write_text(rendered(PAGE.read_text(), results))


def _section(results: Path, name: str) -> str:
    path = results / f"{name}.json"
    if not path.exists():
        return "Not measured yet.\n"
    about = json.loads(path.with_suffix(".machine.json").read_text())
    machine = about["machine"]
    lines = [
        "",
        "| | value | least to most | reference | ratio | goal | holds |",
        "|---|---:|---:|---:|---:|---|---|",
        *(_line(row, about["metrics"][row.metric]) for row in ROWS.validate_json(path.read_text())),
        "",
        f"Driven: {about['driven']}.".replace("..", "."),
        "",
        *(line for note in about["notes"] for line in (f"Note: {note}.", "")),
        (
            f"Machine: {machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']:g} GiB, "
            f"{machine['kernel']}, Python {machine['python']}; load average {machine['load_average_start']} at the "
            f"start, {machine['load_average_end']} at the end."
        ),
        "",
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row, about: dict[str, Any]) -> str:
    spread = f"{number(about['min'])} to {number(about['max'])} (n = {about['count']})" if "count" in about else ""
    reference = f"{number(row.reference)} {about.get('reference', '')}".strip() if row.reference is not None else ""
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    holds = {None: "", True: "yes", False: "**no**"}[row.holds]
    cells = (row.metric, f"{number(row.value)} {row.unit}", spread, reference, ratio, row.goal or "", holds)
    return f"| {' | '.join(cells)} |"
