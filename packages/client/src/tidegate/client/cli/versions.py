"""Commands that look models and versions up."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.client.cli.connection import connect
from tidegate.client.cli.output import AsJson, as_dict, console, write_json, write_table
from tidegate.contracts.names import format_version
from tidegate.v1.values_pb2 import Change

Model = Annotated[str, typer.Argument(help="Name of the model.", show_default=False)]
Reference = Annotated[str, typer.Argument(help="MODEL@1.2.3 or MODEL@ALIAS.", show_default=False)]


def models(context: typer.Context, *, json: AsJson = False) -> None:
    """List the models and their aliases."""
    with connect(context) as client:
        found = client.list_models()
    if json:
        write_json([as_dict(model) for model in found])
        return
    write_table(
        ("MODEL", "VERSIONS", "LATEST", "ALIASES"),
        (
            (
                model.name.removeprefix("models/"),
                str(model.version_count),
                format_version(model.latest_version),
                ", ".join(f"{alias.alias}={format_version(alias.version)}" for alias in model.aliases),
            )
            for model in found
        ),
    )


def versions(context: typer.Context, model: Model, *, json: AsJson = False) -> None:
    """List the versions of a model, newest first, with the reason for each number."""
    with connect(context) as client:
        found = client.list_versions(model)
    if json:
        write_json([as_dict(version) for version in found])
        return
    write_table(
        ("VERSION", "CHANGE", "VALIDATION", "ALIASES", "WHY THIS NUMBER"),
        (
            (
                format_version(version.registered.version),
                Change.Name(version.registered.change).removeprefix("CHANGE_"),
                version.validation or "unknown",
                ", ".join(version.aliases) or "-",
                version.registered.reason,
            )
            for version in found
        ),
    )


def lineage(context: typer.Context, reference: Reference, *, json: AsJson = False) -> None:
    """Show where a version comes from."""
    with connect(context) as client:
        found = client.get_lineage(reference)
    if json:
        write_json(as_dict(found))
        return
    origin = found.lineage
    baseline = format_version(found.baseline) if found.HasField("baseline") else "none: it is the first"
    rows = [
        ("artifact", found.artifact_digest),
        ("decided against", baseline),
        ("code", f"{origin.code_repository} {origin.code_commit}".strip()),
        ("pipeline", f"{origin.pipeline_name} {origin.pipeline_digest} {origin.pipeline_run_id}".strip()),
        ("configuration", origin.config_digest),
        ("environment", origin.environment_digest),
        ("parent", origin.parent),
        *(("data", f"{dataset.uri} {dataset.digest}".strip()) for dataset in origin.datasets),
        ("children", ", ".join(format_version(child) for child in found.children)),
    ]
    write_table(("WHAT", "WHICH"), ((what, which or "-") for what, which in rows))


def alias(
    context: typer.Context,
    model: Model,
    name: Annotated[str, typer.Argument(help="The alias; stable and candidate move only by a rollout.")],
    version: Annotated[str, typer.Argument(help="Where it shall point: 1.2.3.")],
    *,
    json: AsJson = False,
) -> None:
    """Point an alias of a model to a version."""
    with connect(context) as client:
        moved = client.set_alias(model, name, version)
    if json:
        write_json(as_dict(moved))
    else:
        console().print(f"{model}@{moved.alias} points to {format_version(moved.version)}", markup=False)
