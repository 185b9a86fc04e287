"""How long the stack takes to start: the first time, in an empty folder, and again; part by part."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench import parts
from bench.results import Metric, Report
from bench.stats import Sample
from tidegate.stack.parts import STORES, WAITED_FOR
from tidegate.stack.stack import Stack

ROUNDS: Final = 5
QUICK_ROUNDS: Final = 1
FIRST: Final = "first start"
AGAIN: Final = "start again"
WHOLE: Final = "whole"
BARE: Final = "bare broker"
DRIVEN: Final = (
    "Stack.up on free ports until every part answers, jars and environments downloaded before; first: in an empty "
    "folder (formats the broker's and the object store's storage, makes topics and buckets), again: after Stack.down "
    "in the same folder. Caches of the file system are warm both times. A part counts from the end of the one before "
    "it; they start side by side, so a part that is ready while another is waited for costs nothing. Reference: the "
    "same broker alone, made and started by hand in the same round"
)


class Stations:
    """Notes when the stack says that something begins or is ready."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self._begin = time.perf_counter()

    def say(self, text: str) -> None:
        """Take the two lines that part the start: what runs before them is preparation, and topics and buckets."""
        if text.startswith("starting the event bus"):
            self._note("preparation")
        elif text == "starting the services":
            self._note("topics and buckets")

    def progress(self, done: int, total: int) -> None:
        """Drop the number: everything is downloaded."""

    def ready(self, part: str) -> None:
        """Take a part that is ready."""
        self._note(part)

    def end(self) -> None:
        """Take the end."""
        self._note(WHOLE)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part, and of the whole."""
        found = {}
        before = 0.0
        for name, after in self.times.items():
            found[name] = after if name == WHOLE else after - before
            before = after
        return found

    def _note(self, name: str) -> None:
        self.times[name] = time.perf_counter() - self._begin


def start_once(folder: Path) -> dict[str, float]:
    """Start the stack in ``folder``, stop it, and return the seconds of each part of the start."""
    stations = Stations()
    stack = Stack(folder, reporter=stations)
    try:
        stack.up(port_base=0)
        stations.end()
    finally:
        stack.down()
    return stations.seconds()


def bare_broker(folder: Path) -> float:
    """Start the broker alone in ``folder`` and return the seconds until it answers."""
    begin = time.perf_counter()
    with parts.broker(folder):
        return time.perf_counter() - begin


def run(*, quick: bool) -> Report:
    """Run the benchmark."""
    found: dict[str, list[dict[str, float]]] = {FIRST: [], AGAIN: []}
    bare: dict[str, list[float]] = {FIRST: [], AGAIN: []}
    for _ in range(QUICK_ROUNDS if quick else ROUNDS):
        with tempfile.TemporaryDirectory(prefix="tg") as name:
            for kind in (FIRST, AGAIN):
                found[kind].append(start_once(Path(name) / "stack"))
                bare[kind].append(bare_broker(Path(name) / "bare"))
    rows = [row for kind in (FIRST, AGAIN) for row in _rows(kind, found[kind], Sample.of(bare[kind]))]
    return Report(name="start", driven=DRIVEN, metrics=rows)


def _rows(kind: str, starts: Sequence[Mapping[str, float]], bare: Sample) -> list[Metric]:
    order = (WHOLE, "preparation", *STORES, "topics and buckets", *WAITED_FOR)
    against = "formatted and started" if kind == FIRST else "started"
    rows = []
    for name in order:
        sample = Sample.of([start[name] for start in starts])
        is_compared = name in {WHOLE, "kafka"}
        rows.append(
            Metric(
                metric=f"{kind}: {name}, p50",
                value=sample.p50,
                unit="s",
                reference=bare.p50 if is_compared else None,
                against=f"{BARE}, {against}" if is_compared else "",
                sample=sample,
            )
        )
    return rows
