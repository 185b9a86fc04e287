"""The command that gives the reasons."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.client.cli.connection import settings_of
from tidegate.client.cli.output import AsJson, line_as_dict, write_json, write_line
from tidegate.client.client import TidegateClient
from tidegate.client.events import EventReader
from tidegate.client.settings import ClientSettings
from tidegate.client.why import explain, version_of_rollout
from tidegate.contracts.codec import Event
from tidegate.contracts.names import format_version
from tidegate.core.errors import NotFound


def why(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(help="MODEL@1.2.3, MODEL@ALIAS, or the id of a rollout.")],
    *,
    json: AsJson = False,
) -> None:
    """Tell why a version has its number, was blessed or not, and moved or went back: from its events, in order."""
    settings = settings_of(context)
    with EventReader(settings.kafka) as reader:
        events = reader.history()
    model, version, rollout_id = _target(subject, settings, events)
    lines = explain(events, model=model, version=version, rollout_id=rollout_id)
    if not lines:
        raise NotFound(
            f"no event tells of {subject!r}", code="NOTHING_KNOWN", hint=f"`tidegate versions {model}` lists versions"
        )
    if json:
        write_json([line_as_dict(line) for line in lines])
        return
    for line in lines:
        write_line(line)


def _target(subject: str, settings: ClientSettings, events: list[Event]) -> tuple[str, str, str]:
    """Return the model, the version and (if one was named) the rollout that ``subject`` means."""
    model, at, rest = subject.partition("@")
    if not at:
        found = version_of_rollout(events, subject)
        if found is None:
            raise NotFound(
                f"no rollout has the id {subject!r}", code="ROLLOUT_MISSING", hint="`tidegate rollouts list` lists them"
            )
        return (*found, subject)
    if rest[:1].isdigit():
        return model, rest, ""
    with TidegateClient(settings) as client:
        return model, format_version(client.get_version(subject).registered.version), ""
