"""What the command line refuses before it reaches any part, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from tidegate.client.cli import app
from tidegate.client.cli.errors import exit_code
from tidegate.client.cli.starter import FILES
from tidegate.core.errors import Conflict, FailedPrecondition, InvalidInput, NotFound, TidegateError, Unavailable
from tidegate.core.policy import policy_from_yaml, resolve_policy, validate_policy


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TidegateError("x"), 1),
        (Conflict("x"), 1),
        (FailedPrecondition("x"), 1),
        (InvalidInput("x"), 2),
        (Unavailable("x"), 3),
        (NotFound("x"), 4),
        (Unavailable("x", code="COMMAND_UNDECIDED"), 6),
        (FailedPrecondition("x", code="COMMAND_DECIDED_BEFORE"), 6),
    ],
)
def test_exit_codes_stay(error: TidegateError, code: int) -> None:
    assert exit_code(error) == code


def test_unknown_command_is_a_usage_error() -> None:
    assert run("frobnicate").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [("versions",), ("versions", "list"), ("versions", "retire"), ("models", "retire"), ("rollouts", "start")],
)
def test_missing_argument_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [("models",), ("models", "--json"), ("models", "list"), ("versions", "churn"), ("versions", "list", "x")],
)
def test_lists_need_not_be_named(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """They get as far as looking for the stack that is not there."""
    result = run("--stack", str(tmp_path), *arguments)
    assert result.exit_code == 2
    assert "stack.json" in result.stderr


@pytest.mark.parametrize("group", ["models", "versions"])
def test_groups_that_list_show_their_other_commands(group: str) -> None:
    result = run(group, "--help")
    assert result.exit_code == 0
    assert "  retire " in result.output


def test_every_command_of_the_contract_is_listed() -> None:
    text = run("--help").output
    for name in (
        "init",
        "publish",
        "versions",
        "policy",
        "rollouts",
        "rollback",
        "events",
        "why",
        "up",
        "down",
        "demo",
    ):
        assert f"  {name} " in text


@pytest.mark.parametrize("reference", ["churn", "churn@", "@1.0.0"])
def test_a_start_without_a_version_says_what_was_expected(reference: str) -> None:
    result = run("rollouts", "start", reference)
    assert result.exit_code == 2
    assert "expected MODEL@1.2.3 or MODEL@ALIAS" in result.stderr


def test_policy_with_a_fault_names_the_field_and_sends_nothing(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("model: churn\nmode: maybe\n")
    result = run("policy", "apply", str(file))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: mode is 'maybe'")
    assert "Traceback" not in result.stderr


def test_unknown_topic_is_refused_with_the_choice() -> None:
    result = run("events", "tail", "--topic", "weather")
    assert result.exit_code == 2
    assert "topic is 'weather', expected one of training" in result.stderr


def test_stack_that_is_not_there_is_named_with_a_hint(tmp_path: Path) -> None:
    result = run("--stack", str(tmp_path), "versions", "churn")
    assert result.exit_code == 2
    assert str(tmp_path / "stack.json") in result.stderr
    assert "hint: start one with `tidegate up`" in result.stderr


def test_publish_without_an_artifact_says_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    file.write_text("model: churn\n")
    result = run("publish", str(file))
    assert result.exit_code == 2
    assert "error: artifact is missing" in result.stderr


def test_publish_refuses_a_field_that_trainings_do_not_have(tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    file.write_text("model: churn\nartifact: model.onnx\ncolour: blue\n")
    result = run("publish", str(file))
    assert result.exit_code == 2
    assert "colour" in result.stderr


def test_metric_without_a_number_is_refused(tmp_path: Path) -> None:
    result = run("publish", "--model", "churn", "--artifact", str(tmp_path / "m.onnx"), "--metric", "roc_auc=good")
    assert result.exit_code == 2
    assert "--metric is 'roc_auc=good', expected a number" in result.stderr


def test_init_makes_a_project_whose_policy_is_valid(tmp_path: Path) -> None:
    folder = tmp_path / "churn"
    result = run("init", str(folder), "--json")
    assert result.exit_code == 0
    assert json.loads(result.output) == {
        "folder": str(folder),
        "model": "churn",
        "files": ["README.md", "policy.yaml", "train.py"],
    }
    policy = policy_from_yaml((folder / "policy.yaml").read_text())
    assert policy.model == "churn"
    assert list(validate_policy(resolve_policy(policy))) == []
    compile((folder / "train.py").read_text(), "train.py", "exec")
    assert "$" not in "".join((folder / name).read_text() for name in FILES)


def test_init_leaves_a_folder_with_files_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    result = run("init", str(tmp_path), "--model", "churn")
    assert result.exit_code == 1
    assert "hint: name a new folder" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_init_refuses_a_name_that_models_can_not_have(tmp_path: Path) -> None:
    result = run("init", str(tmp_path / "Churn!"))
    assert result.exit_code == 2
    assert not (tmp_path / "Churn!").exists()


def test_training_file_of_the_contract_can_be_written_as_yaml(tmp_path: Path) -> None:
    from tidegate.client import read_training_file

    document = {
        "model": "churn",
        "artifact": "model.onnx",
        "signature": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}], "target_id": "left"},
        "metrics": [{"name": "roc_auc", "value": 0.7, "higher_is_better": True}],
        "card": {"owner": "team-a"},
    }
    file = tmp_path / "training.yaml"
    file.write_text(yaml.safe_dump(document))
    found = read_training_file(file)
    assert found.artifact == tmp_path / "model.onnx"
    assert (found.model, found.card.owner, list(found.signature.inputs[0].shape)) == ("churn", "team-a", [-1, 1])
