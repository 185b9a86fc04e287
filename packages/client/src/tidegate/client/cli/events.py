"""Commands that show events as they are."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.client.cli.connection import settings_of
from tidegate.client.cli.output import AsJson, console, event_as_dict, short_time, write_json
from tidegate.client.events import EventReader
from tidegate.client.why import describe
from tidegate.contracts.codec import Event
from tidegate.contracts.principals import STORY_TOPICS
from tidegate.contracts.topics import TOPICS, Topic
from tidegate.core.errors import InvalidInput, NotFound

app = typer.Typer(no_args_is_help=True, help="What happened, event by event.")


@app.command("tail")
def tail(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Option(help="Only of this model.")] = "",
    topic: Annotated[list[str] | None, typer.Option(help="Only of this topic (without prefix); repeatable.")] = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="First all that happened so far.")] = False,
    timeout_s: Annotated[float, typer.Option(help="Stop after so many seconds; 0 = never.")] = 0.0,
    json: AsJson = False,
) -> None:
    """Print events as they come."""
    topics = _topics(topic or [])
    with EventReader(settings_of(context).kafka, topics, since=None if from_beginning else "now") as reader:
        try:
            for event in reader.follow(deadline_s=timeout_s or None):
                if not model or event.subject == model:
                    _write(event, json=json)
        except KeyboardInterrupt:
            raise typer.Exit from None


@app.command("chain")
def chain(
    context: typer.Context,
    correlation_id: Annotated[str, typer.Argument(help="Id that all events of one training carry.")],
    *,
    json: AsJson = False,
) -> None:
    """Print everything that one training caused, in order."""
    with EventReader(settings_of(context).kafka) as reader:
        found = [event for event in reader.history() if event.correlation_id == correlation_id]
    if not found:
        raise NotFound(
            f"no event has the correlation id {correlation_id!r}",
            code="CHAIN_MISSING",
            hint="`tidegate events tail --from-beginning --json` shows the ids",
        )
    for event in found:
        _write(event, json=json)


def _topics(names: list[str]) -> tuple[Topic, ...]:
    if not names:
        return STORY_TOPICS
    known = {topic.name: topic for topic in TOPICS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidInput(
            f"topic is {unknown[0]!r}, expected one of {', '.join(known)}", code="TOPIC_UNKNOWN", field="--topic"
        )
    return tuple(known[name] for name in names)


def _write(event: Event, *, json: bool) -> None:
    if json:
        write_json(event_as_dict(event), one_line=True)
        return
    line = describe(event)
    told = line.headline if line else ""
    console().print(f"{short_time(event.time)}  {event.subject:<16} {event.type:<22} {told}", markup=False)
