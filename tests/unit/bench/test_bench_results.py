"""The form of the results: what is written is what the readers of bench/results rely on."""

import importlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from bench import __main__ as command
from bench import pages
from bench.results import ROWS, Goal, Metric, Report, write
from bench.stats import Sample

KEYS = ["metric", "value", "unit", "reference", "ratio", "goal", "holds"]
# Imported here: a library looks at the network when it is imported, which unit tests refuse.
MODULES = {name: importlib.import_module(f"bench.{name}") for name in command.NAMES}
RESULTS = Path(command.__file__).parent / "results"


def row(**changes):
    plain = {"metric": "m", "value": 2.0, "unit": "ms", "reference": 4.0, "ratio": 0.5, "goal": None, "holds": None}
    return {**plain, **changes}


def report(*metrics):
    return Report(name="some", driven="nothing", metrics=metrics)


def test_written_rows_have_exactly_the_seven_keys(tmp_path):
    metrics = (
        Metric(metric="a", value=12.3456789, unit="ms", reference=3.0, against="bare", sample=Sample.of([1.0, 2.0])),
        Metric(metric="b", value=0, unit="requests", goal=Goal(at_most=0, exact=True)),
    )
    path = write(report(*metrics), tmp_path, quick=False, machine={"cores": 2})
    document = json.loads(path.read_text())
    assert [list(one) for one in document] == [KEYS, KEYS]
    assert document[0] == {**row(metric="a", value=12.346, reference=3.0, ratio=4.1152)}
    assert document[1]["holds"] is True
    ROWS.validate_json(path.read_text())
    about = json.loads((tmp_path / "some.machine.json").read_text())
    assert about["machine"] == {"cores": 2}
    assert about["metrics"]["a"] == {"count": 2, "min": 1.0, "p50": 1.5, "p90": 2.0, "max": 2.0, "reference": "bare"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"extra": 1},
        {"value": "2"},
        {"ratio": None},
        {"reference": None},
        {"ratio": 0.7},
        {"holds": True},
        {"goal": 100.0},
    ],
)
def test_rows_of_another_form_are_refused(wrong):
    with pytest.raises(ValidationError):
        ROWS.validate_python([row(**wrong)])


@pytest.mark.parametrize(
    ("goal", "holds"),
    [
        (Goal(at_most=2.0), True),
        (Goal(at_most=1.9), False),
        (Goal(at_least=2.0), True),
        (Goal(at_least=2.1), False),
        (Goal(of="ratio", at_most=0.5), True),
        (Goal(of="ratio", at_most=0.4), False),
    ],
)
def test_goal_is_judged_on_value_or_ratio(goal, holds):
    metric = Metric(metric="m", value=2.0, unit="ms", reference=4.0, goal=goal)
    assert metric.row(quick=False).holds is holds
    assert metric.row(quick=True).holds is None
    broken = report(metric).broken(quick=False)
    assert len(broken) == (not holds)
    assert all("some: m is 2 ms, ratio 0.5" in line for line in broken)


def test_exact_goal_is_judged_in_quick_runs_too():
    failed = Metric(metric="failed", value=3, unit="requests", goal=Goal(at_most=0, exact=True))
    assert report(failed).broken(quick=True) == ["some: failed is 3 requests; the goal value <= 0 does not hold"]


def test_broken_goal_ends_the_command_with_one_plain_line(monkeypatch, tmp_path, capsys):
    failing = report(Metric(metric="m", value=9.0, unit="ms", goal=Goal(at_most=1.0)))
    monkeypatch.setattr(command.importlib, "import_module", lambda _name: type("M", (), {"run": lambda quick: failing}))
    assert command.run_one("memory", quick=False, folder=tmp_path) == command.EXIT_FAILED
    assert capsys.readouterr().err == "error: some: m is 9 ms; the goal value <= 1 does not hold\n"
    assert command.run_one("memory", quick=True, folder=tmp_path) == 0


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_committed_results_have_the_form_and_name_no_place(path):
    text = path.read_text()
    if path.name.endswith(".machine.json"):
        about = json.loads(text)
        assert {"cores", "cpu", "memory_gib", "kernel", "python", "load_average_start", "load_average_end"} <= set(
            about["machine"]
        )
        assert about["quick"] is False
        rows = ROWS.validate_json(path.with_name(path.name.replace(".machine.json", ".json")).read_text())
        assert [one.metric for one in rows] == list(about["metrics"])
    else:
        assert ROWS.validate_json(text)
    for place in ("/tmp/", "/home/", "/work", "/root"):
        assert place not in text


def test_page_says_what_was_measured():
    page = pages.PAGE.read_text()
    assert pages.rendered(page, RESULTS) == page, "run: python -m bench docs"
    for name in command.NAMES:
        assert f"<!-- results: {name} -->" in page
        assert f"| `{name}` |" in page


def test_every_benchmark_has_a_module_with_run():
    for name in command.NAMES:
        assert callable(MODULES[name].run)
