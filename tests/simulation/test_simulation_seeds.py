"""The control loop keeps its invariants, whatever a seed brings."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter

import pytest
from more import repeats

from tidegate.deployer.state import TERMINAL_PHASES, Phase
from tidegate.simulation.__main__ import main
from tidegate.simulation.mutants.catalogue import MUTANTS
from tidegate.simulation.plan import AWAITED_PHASES, Fault
from tidegate.simulation.runner import run_seeds, table
from tidegate.simulation.simulation import simulate

SEEDS = range(repeats(160, many=1000))
# What they contain is asserted below.
TOLD_SEEDS = (0, 1, 2, 5, 13, 15, 22, 52, 53, 56)
DIGESTS = """
import hashlib, sys
from tidegate.simulation.simulation import simulate

for seed in sys.argv[1:]:
    lines = simulate(int(seed), is_told=True).lines
    print(hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""
STRIKERS = {
    "deployer": (Fault.CRASH_DEPLOYER, Fault.DEPLOYER_PAUSED, Fault.DEPLOYER_CUT, Fault.HANDOVER),
    "monitor": (Fault.CRASH_MONITOR, Fault.MONITOR_CUT),
    "broker": (Fault.BROKER_DOWN, Fault.REBALANCE),
    "acknowledgement": (Fault.ACK_LOST, Fault.ACK_LATE),
}


@pytest.fixture(scope="module")
def summary():
    # In processes of their own, which coverage does not trace: it would make them take thrice as long, and it has `told`.
    return run_seeds(SEEDS, jobs=2)


def test_no_seed_breaks_an_invariant(summary):
    told = [f"seed {one.seed}: {one.told}" for one in summary.failures]
    assert told == [], "reproduce with: python -m tidegate.simulation --seed N"
    assert summary.seeds == len(SEEDS)


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_has_struck(summary, fault):
    assert summary.coverage[f"fault: {fault}"] > 0


@pytest.mark.parametrize("phase", sorted({*AWAITED_PHASES} - TERMINAL_PHASES))
@pytest.mark.parametrize("whose", STRIKERS)
def test_faults_have_struck_in_every_running_phase(summary, whose, phase):
    assert sum(summary.coverage[f"struck: {fault} in {phase}"] for fault in STRIKERS[whose]) > 0


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
        "strategy: canary again, by a person",
        "waiting: for a server in STARTING",
        "command: RETIRE obeyed",
        "command: RETIRE ignored",
        "command: RESTORE obeyed",
        "step: earned",
        "step: by a person",
        "breach: while STEPPING",
        "breach: while SETTLING",
        "command: heard again",
        "promoted: by a person",
        "promoted: its rollback window closed",
        "hold: ended by its limit",
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


@pytest.fixture(scope="module")
def told():
    return {seed: simulate(seed, is_told=True) for seed in TOLD_SEEDS}


def test_the_same_seed_gives_the_same_transcript_in_every_process(told):
    def digests(hash_seed):
        command = [sys.executable, "-c", DIGESTS, *map(str, TOLD_SEEDS)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        output = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=240).stdout
        return output.decode().split()

    here = [hashlib.sha256("\n".join(result.lines).encode()).hexdigest() for result in told.values()]
    assert digests("1") == digests("2") == here
    assert len(set(here)) == len(TOLD_SEEDS)


@pytest.mark.parametrize("what", ["MetricBreached: error_rate breached", "ends: fenced", "models fraud, price"])
def test_the_compared_transcripts_hold_the_interesting(told, what):
    assert any(what in line for result in told.values() for line in result.lines)


def test_a_transcript_costs_nothing_but_time(told):
    for seed in TOLD_SEEDS[:3]:
        untold = simulate(seed)
        assert told[seed].lines
        assert not untold.lines
        assert (told[seed].steps, told[seed].coverage) == (untold.steps, untold.coverage)


def test_a_look_that_changes_nothing_is_not_told(told):
    looks = [line for result in told.values() for line in result.lines if "ServerChanged" in line]
    assert looks
    assert len(looks) < sum(result.coverage["decided: ServerChanged"] for result in told.values()) / 2


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
