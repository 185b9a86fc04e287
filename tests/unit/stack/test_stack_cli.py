"""The stack's commands while no stack runs."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from tidegate.client.cli import app
from tidegate.core.errors import Unavailable
from tidegate.stack import cli
from tidegate.stack.layout import Layout

RUNNER = CliRunner()


def run(*words: str, code: int):
    result = RUNNER.invoke(app, list(words), env={"TIDEGATE_DIR": None, "TERM": "dumb", "COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


def test_status_of_no_stack_ends_with_3(tmp_path):
    assert "not running" in run("status", "--dir", str(tmp_path), code=3).stdout
    assert json.loads(run("status", "--dir", str(tmp_path), "--json", code=3).stdout) == {
        "state": "stopped",
        "parts": [],
    }


def test_down_of_no_stack_is_fine_and_makes_nothing(tmp_path):
    missing = tmp_path / "missing"
    assert json.loads(run("down", "--dir", str(missing), "--json", code=0).stdout) == {"stopped": False}
    assert not missing.exists()


def test_global_stack_option_names_the_directory_too(tmp_path):
    (tmp_path / "stack.json").write_text("{")
    result = run("--stack", str(tmp_path / "stack.json"), "status", code=1)
    assert "stack.json is damaged" in result.stderr


def test_logs_of_an_unknown_part_are_a_usage_error(tmp_path):
    assert "no part 'kafak'" in run("logs", "kafak", "--dir", str(tmp_path), code=2).stderr


def test_logs_before_the_first_start_end_with_3(tmp_path):
    run("logs", "--dir", str(tmp_path), code=3)


def test_logs_show_the_last_lines_of_each_part(tmp_path):
    layout = Layout.of(tmp_path)
    layout.logs.mkdir()
    layout.log("kafka").write_text("one\ntwo [bold]x[/bold]\nthree\n")
    layout.log("monitor").write_text("four\n")
    shown = run("logs", "-n", "2", "--dir", str(tmp_path), code=0).stdout
    assert re.findall(r"(\S+) +(.+)", shown) == [
        ("kafka", "two [bold]x[/bold]"),
        ("kafka", "three"),
        ("monitor", "four"),
    ]
    assert run("logs", "monitor", "--dir", str(tmp_path), code=0).stdout == "four\n"


def test_failed_start_ends_with_1_and_says_what_to_do(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise Unavailable("kafka ends again and again", code="PART_NOT_READY", hint="the whole log is x")

    monkeypatch.setattr(cli.Stack, "up", fail)
    result = run("up", "--dir", str(tmp_path), code=1)
    assert result.stderr == "error: kafka ends again and again\nhint: the whole log is x\n"


@pytest.mark.parametrize("base", ["80", "x"])
def test_port_base_that_is_none_is_refused(tmp_path, base):
    run("up", "--dir", str(tmp_path), "--port-base", base, code=2)
