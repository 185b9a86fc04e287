"""The same events always lead to the same states and steps, also by way of a snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from more import repeats

from tidegate.deployer import wire
from tidegate.deployer.rollout import decide
from tidegate.deployer.state import ModelState

TRANSCRIPTS = Path(__file__).parent / "transcripts"
BEGINNING = ("register 1.0.0", "bless 1.0.0 settle_s=0", "ready 1.0.0", "ack", "wait 1", "ack")
LINES = st.sampled_from(
    [
        "register 1.1.0",
        "bless 1.1.0 steps=0.1,0.5,1 bake=5",
        "ready 1.1.0",
        "register 2.0.0",
        "bless 2.0.0 approvals=1,0,0",
        "bless 2.0.0 mid_rollout=supersede on_breach=freeze",
        "approve-version 2.0.0",
        "ready 2.0.0",
        "down 1.1.0",
        "failed 2.0.0 LOAD_FAILED",
        "ack",
        "ack",
        "evidence",
        "heartbeat",
        "breach errors",
        "wait 6",
        "wait 40",
        "take-over",
        "pause",
        "resume",
        "promote",
        "promote full",
        "abort",
        "approve",
        "start 1.0.0",
        "rollback",
    ]
)


def check_again(script):
    """Decide everything again, each time from a snapshot of the state before."""
    state = ModelState(model="fraud")
    for event, decision in zip(script.events, script.decisions, strict=True):
        message = wire.state_message(state)
        restored = wire.state_from(type(message).FromString(message.SerializeToString()))
        assert restored == state
        again = decide(restored, event)
        assert again == decision
        assert wire.state_message(again.state) == wire.state_message(decision.state)
        assert [wire.step_message("fraud", step) for step in again.steps] == [
            wire.step_message("fraud", step) for step in decision.steps
        ]
        state = again.state
    assert state == script.state


@settings(
    deadline=None,
    max_examples=repeats(100, many=1000),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(lines=st.lists(LINES, max_size=60))
def test_any_history_decided_again_is_the_same(script, lines):
    played = type(script)()
    for line in (*BEGINNING, *lines):
        played.play(line)
    check_again(played)


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.txt")), ids=lambda path: path.stem)
def test_each_transcript_decided_again_is_the_same(path, script):
    for line in path.read_text().partition("----\n")[0].splitlines():
        if line and not line.startswith("#"):
            script.play(line)
    check_again(script)


def test_a_decision_leaves_its_state_as_it_was(script):
    for line in BEGINNING:
        before = script.state
        snapshot = wire.state_message(before)
        script.play(line)
        assert wire.state_message(before) == snapshot
