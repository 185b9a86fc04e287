"""The benchmarks still run: each in its quick form, those of the whole stack on one stack."""

from __future__ import annotations

import shutil

import pytest

from bench import breach, echo, evidence, loop, shifts
from bench.results import ROWS
from bench.world import running_world

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory):
    runtimes = tmp_path_factory.mktemp("runtimes")
    with running_world(echo.install(runtimes)) as running:
        yield running, runtimes


def says(report) -> dict[str, float]:
    """Return the values of a report whose rows have the form of the results, and of which no count is broken."""
    rows = report.rows(quick=True)
    ROWS.validate_python([row.model_dump() for row in rows])
    assert report.broken(quick=True) == []
    return {row.metric: row.value for row in rows}


def test_loop_follows_a_version_from_training_to_its_first_answer(stack):
    world, _ = stack
    said = says(loop.measure(world, versions=1))
    parts = [said[f"{name}, p50"] for name in loop.PARTS]
    assert sum(parts) == pytest.approx(said["whole loop, p50"], rel=1e-3)


def test_breach_is_followed_to_the_last_of_three_proxies(stack):
    world, runtimes = stack
    said = says(breach.measure(world, runtimes, quick=True))
    assert said["breach to last acknowledgement, 3 proxies, p50"] > 0
    assert said["first bad answer to last acknowledgement, p50"] > said["first bad answer to breach, p50"] > 0


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: the benchmark says so and does not run")
def test_shifts_lose_no_request(stack):
    world, _ = stack
    said = says(shifts.measure(world, quick=True))
    assert said["wrk: requests"] > 0
    assert said["weight shifts"] == shifts.QUICK_WEIGHT_SHIFTS
    assert said["version changes"] == shifts.QUICK_VERSION_CHANGES


def test_evidence_counts_every_request():
    assert all(value > 0 for value in says(evidence.run(quick=True)).values())
