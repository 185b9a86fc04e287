"""The command that publishes a finished training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from tidegate.client.cli.connection import connect
from tidegate.client.cli.errors import EXIT_FAILED
from tidegate.client.cli.output import AsJson, console, event_as_dict, write_json, write_line
from tidegate.client.training import Receipt, training_from_mapping
from tidegate.client.why import describe
from tidegate.contracts.codec import Event
from tidegate.core.errors import InvalidInput
from tidegate.core.tracing import start_tracing

FileOption = Annotated[Path | None, typer.Option(dir_okay=False)]


def publish(
    context: typer.Context,
    training: Annotated[
        Path | None, typer.Argument(help="The training, YAML; options win over it.", exists=True, dir_okay=False)
    ] = None,
    *,
    model: Annotated[str, typer.Option(help="Name of the model.")] = "",
    artifact: FileOption = None,
    signature: Annotated[Path | None, typer.Option(help="YAML: inputs, outputs, target_id.", dir_okay=False)] = None,
    evaluation: FileOption = None,
    reference_data: FileOption = None,
    sample_requests: FileOption = None,
    metric: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    owner: Annotated[str, typer.Option(help="Person or team that answers for it.")] = "",
    description: Annotated[str, typer.Option(help="What the model does.")] = "",
    code_commit: Annotated[str, typer.Option(help="Commit of the training code.")] = "",
    request_id: Annotated[str, typer.Option(help="The same id and files get the same answer.")] = "",
    wait_s: Annotated[float, typer.Option(help="Wait for the registry's answer; 0 = do not.")] = 60.0,
    json: AsJson = False,
) -> None:
    """Upload a trained model and its evaluation, publish TrainingCompleted, and wait for its number."""
    start_tracing("client")
    document = _read_yaml(training) if training else {}
    folder = training.parent if training else Path()
    files = {
        "artifact": artifact,
        "evaluation": evaluation,
        "reference_data": reference_data,
        "sample_requests": sample_requests,
    }
    document |= {name: str(path.resolve()) for name, path in files.items() if path}
    document |= {name: text for name, text in (("model", model), ("request_id", request_id)) if text}
    if signature:
        document["signature"] = _read_yaml(signature)
    if metric:
        document["metrics"] = [_metric(text) for text in metric]
    document["tags"] = (document.get("tags") or {}) | dict(_pair("--tag", text) for text in tag or ())
    _put(document, "card", {"owner": owner, "description": description})
    _put(document, "lineage", {"code_commit": code_commit})
    run = training_from_mapping(document, folder=folder)
    with connect(context) as client:
        receipt = client.publish_training_completed(run)
        answer = client.wait_for_registration(receipt, timeout_s=wait_s) if wait_s > 0 else None
    _show(receipt, answer, json=json)
    if answer is not None and answer.type == "RegistrationRejected":
        raise typer.Exit(EXIT_FAILED)


def _show(receipt: Receipt, answer: Event | None, *, json: bool) -> None:
    if json:
        write_json(
            {
                "model": receipt.model,
                "request_id": receipt.request_id,
                "correlation_id": receipt.correlation_id,
                "artifact_digest": receipt.artifact_digest,
                "answer": event_as_dict(answer) if answer else None,
            }
        )
        return
    console().print(f"published {receipt.model}, artifact {receipt.artifact_digest}", markup=False)
    line = describe(answer) if answer else None
    if line is not None:
        write_line(line)
    console().print(f"what follows: tidegate events chain {receipt.correlation_id}", markup=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} can't be read: {error}", code="FILE_UNREADABLE") from None
    if not isinstance(document, dict):
        raise InvalidInput(f"{path} holds a {type(document).__name__}, expected a mapping", code="FILE_UNREADABLE")
    return document


def _pair(option: str, text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise InvalidInput(f"{option} is {text!r}, expected NAME=VALUE", code="OPTION_INVALID", field=option)
    return name, value


def _metric(text: str) -> dict[str, Any]:
    name, value = _pair("--metric", text)
    try:
        return {"name": name, "value": float(value), "higher_is_better": True}
    except ValueError:
        raise InvalidInput(
            f"--metric is {text!r}, expected a number after {name}=", code="OPTION_INVALID", field="--metric"
        ) from None


def _put(document: dict[str, Any], key: str, values: dict[str, str]) -> None:
    given = {name: text for name, text in values.items() if text}
    if given:
        document[key] = (document.get(key) or {}) | given
