"""The control loop keeps its invariants, whatever a seed brings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from tidegate.deployer.state import TERMINAL_PHASES, Phase
from tidegate.simulation.__main__ import main
from tidegate.simulation.mutants import MUTANTS
from tidegate.simulation.plan import Fault
from tidegate.simulation.runner import run_seeds, table
from tidegate.simulation.simulation import simulate

SEEDS = range(150)
TOLD_SEED = 17


@pytest.fixture(scope="module")
def summary():
    return run_seeds(SEEDS)


def test_no_seed_breaks_an_invariant(summary):
    told = [f"seed {one.seed}: {one.told}" for one in summary.failures]
    assert told == [], "reproduce with: python -m tidegate.simulation --seed N"
    assert summary.seeds == len(SEEDS)


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_has_struck(summary, fault):
    assert summary.coverage[f"fault: {fault}"] > 0


@pytest.mark.parametrize("phase", sorted(TERMINAL_PHASES))
def test_rollouts_have_ended_in_every_way(summary, phase):
    assert summary.coverage[f"end: {phase}"] > 0


@pytest.mark.parametrize("phase", sorted({*Phase} - {Phase.PENDING}))
def test_rollouts_have_been_in_every_phase(summary, phase):
    assert summary.coverage[f"phase: {phase}"] > 0


@pytest.mark.parametrize(
    "what",
    [
        "strategy: canary",
        "strategy: blue_green",
        "strategy: blue_green by a person",
        "step: earned",
        "step: by a person",
        "breach: while STEPPING",
        "breach: while SETTLING",
        "deployer: fenced",
        "deployer: two at the same time",
        "deployer: crash between commit and effect",
        "proxy: lease ended",
        "monitor: finding sent twice",
        "change: MAJOR",
        "change: MINOR",
        "change: PIPELINE",
        "server: FAILED",
    ],
)
def test_the_interesting_has_happened(summary, what):
    assert summary.coverage[what] > 0


def test_few_requests_need_an_excuse(summary):
    excused = sum(count for name, count in summary.coverage.items() if name.startswith("request: failed"))
    assert excused < 0.1 * summary.coverage["request: all"]


def test_the_same_seed_gives_the_same_transcript_in_every_process():
    def transcript(hash_seed):
        command = [sys.executable, "-m", "tidegate.simulation", "--seed", str(TOLD_SEED)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, env=environment, capture_output=True, check=True, timeout=240).stdout

    first = transcript("1")
    assert first == transcript("2")
    assert first.decode().splitlines() == list(simulate(TOLD_SEED, is_told=True).lines)


def test_a_transcript_costs_nothing_but_time():
    told, untold = simulate(TOLD_SEED, is_told=True), simulate(TOLD_SEED)
    assert told.lines
    assert not untold.lines
    assert (told.steps, told.coverage) == (untold.steps, untold.coverage)


def test_a_broken_invariant_is_told_with_its_transcript_and_how_to_get_it_again(capsys):
    mutant = next(one for one in MUTANTS if one.name == "breach-ignored-after-promotion")
    with mutant.planted():
        assert main(["--seeds", "20", "--jobs", "1"]) == 1
    told = capsys.readouterr().out
    assert "broken invariant: a breach" in told
    assert "reproduce it with: python -m tidegate.simulation --seed " in told
    assert "MetricBreached" in told


def test_the_table_groups_what_happened():
    assert table(Counter({"phase: PAUSED": 2, "end: ABORTED": 1})) == [
        "end",
        "           1  ABORTED",
        "phase",
        "           2  PAUSED",
    ]
