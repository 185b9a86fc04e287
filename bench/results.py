"""What a benchmark says: rows of one fixed form, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator
from rich.console import Console
from rich.table import Table

from bench.stats import Sample

RATIO_DIGITS: Final = 4
# The numbers are rounded when they are written: a ratio follows from its rounded parts as closely as this.
RATIO_TOLERANCE: Final = 0.02


class Row(BaseModel):
    """One line of ``bench/results/NAME.json``; ``goal`` and ``holds`` are null where nothing is promised."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    metric: str
    value: float
    unit: str
    reference: float | None
    ratio: float | None
    goal: str | None
    holds: bool | None

    @model_validator(mode="after")
    def _is_consistent(self) -> Row:
        if (self.reference is None) != (self.ratio is None):
            raise ValueError("reference and ratio come together")
        if self.reference is not None and self.ratio is not None:
            off = abs(self.ratio * self.reference - self.value)
            if off > RATIO_TOLERANCE * abs(self.value) + 1e-9:
                raise ValueError(f"ratio is {self.ratio}, expected {self.value} / {self.reference}")
        if self.goal is None and self.holds is not None:
            raise ValueError("holds is said of no goal")
        return self


ROWS: Final = TypeAdapter(list[Row])


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What a row has to reach; ``exact`` goals (counts) are judged in quick runs too, times are not."""

    of: Literal["value", "ratio"] = "value"
    at_most: float | None = None
    at_least: float | None = None
    exact: bool = False

    def __str__(self) -> str:
        """Return ``value <= 100``."""
        sign, bound = ("<=", self.at_most) if self.at_most is not None else (">=", self.at_least)
        return f"{self.of} {sign} {bound:g}"

    def holds(self, measured: float) -> bool:
        """Say whether ``measured`` reaches it."""
        low = self.at_least is None or measured >= self.at_least
        return low and (self.at_most is None or measured <= self.at_most)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One measured number; ``against`` says what the reference is, ``sample`` how it was spread."""

    metric: str
    value: float
    unit: str
    reference: float | None = None
    against: str = ""
    goal: Goal | None = None
    sample: Sample | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value in units of the reference, of the same run."""
        return self.value / self.reference if self.reference else None

    def row(self, *, quick: bool) -> Row:
        """Return the row; a quick run judges no time."""
        judged = self.goal is not None and (self.goal.exact or not quick)
        measured = self.value if self.goal is None or self.goal.of == "value" else self.ratio
        return Row(
            metric=self.metric,
            value=_rounded(self.value),
            unit=self.unit,
            reference=_rounded(self.reference) if self.reference else None,
            ratio=round(self.ratio, RATIO_DIGITS) if self.ratio is not None else None,
            goal=str(self.goal) if self.goal else None,
            holds=self.goal.holds(measured) if self.goal and judged and measured is not None else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that one run of one benchmark has to say; ``driven`` tells what was done, exactly."""

    name: str
    driven: str
    metrics: Sequence[Metric]
    notes: Sequence[str] = field(default=())

    def rows(self, *, quick: bool) -> list[Row]:
        """Return the rows."""
        return [metric.row(quick=quick) for metric in self.metrics]

    def broken(self, *, quick: bool) -> list[str]:
        """Return one plain line for each goal that does not hold."""
        return [
            f"{self.name}: {row.metric} is {row.value:g} {row.unit}"
            f"{'' if row.ratio is None else f', ratio {row.ratio:g}'}; the goal {row.goal} does not hold"
            for row in self.rows(quick=quick)
            if row.holds is False
        ]


def write(report: Report, folder: Path, *, quick: bool, machine: dict[str, Any]) -> Path:
    """Write ``NAME.json`` (the rows) and ``NAME.machine.json`` (where, how, and the spread of each row)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.name}.json"
    rows = [row.model_dump() for row in report.rows(quick=quick)]
    path.write_text(json.dumps(rows, indent=1) + "\n")
    about = {
        "machine": machine,
        "quick": quick,
        "driven": report.driven,
        "notes": list(report.notes),
        "metrics": {metric.metric: _about(metric) for metric in report.metrics},
    }
    (folder / f"{report.name}.machine.json").write_text(json.dumps(about, indent=1) + "\n")
    return path


def show(report: Report, console: Console, *, quick: bool) -> None:
    """Print the table and what was driven."""
    table = Table(title=f"bench {report.name}{' (quick: times are not judged)' if quick else ''}", title_justify="left")
    for name in ("metric", "value", "unit", "reference", "ratio", "goal", "holds"):
        table.add_column(name, justify="right" if name in {"value", "reference", "ratio"} else "left")
    for metric, row in zip(report.metrics, report.rows(quick=quick), strict=True):
        table.add_row(
            row.metric,
            number(row.value),
            row.unit,
            f"{number(row.reference)} {metric.against}".strip() if row.reference is not None else "",
            f"{row.ratio:.2f}" if row.ratio is not None else "",
            row.goal or "",
            "" if row.holds is None else ("yes" if row.holds else "[bold red]NO[/]"),
        )
    console.print(table)
    console.print(report.driven, markup=False)
    for note in report.notes:
        console.print(f"- {note}", markup=False)


def _about(metric: Metric) -> dict[str, Any]:
    sample = metric.sample
    spread = (
        {}
        if sample is None
        else {
            "count": sample.count,
            "min": _rounded(sample.smallest),
            "p50": _rounded(sample.p50),
            "p90": _rounded(sample.p90),
            "max": _rounded(sample.largest),
        }
    )
    said = {"reference": metric.against, "note": metric.note}
    return spread | {key: text for key, text in said.items() if text}


def number(value: float | None) -> str:
    """Return ``value`` for people: four digits, thousands apart."""
    return "" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _rounded(value: float) -> float:
    """Return five significant digits: what lies below is noise."""
    return float(f"{value:.5g}")
