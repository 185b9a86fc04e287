"""What people take out of service gets no request, and comes back only by their word."""

from __future__ import annotations

import json

import pytest

from tidegate.deployer import wire
from tidegate.deployer.state import KNOWN_VERSIONS_MAX, Number, Phase
from tidegate.v1 import rollout_events_pb2 as pb

STABLE = ("register 1.0.0", "bless 1.0.0 settle_s=0", "ready 1.0.0", "ack", "wait 0", "ack")
TWO_LINES = (*STABLE, "register 2.0.0", "bless 2.0.0 settle_s=0", "ready 2.0.0", "ack", "wait 0", "ack")
V1, V11, V2 = Number(1, 0, 0), Number(1, 1, 0), Number(2, 0, 0)


def play(script, *lines):
    for line in lines:
        decision = script.play(line)
    return decision


def lines(script):
    return {line.major: line.arms[0].number for line in script.state.route.lines}


def test_a_retired_model_has_no_line_and_no_server_once_the_proxies_know(script):
    decision = play(script, *TWO_LINES, "retire")
    assert decision.route_changed
    assert lines(script) == {}
    assert script.state.wanted_servers() == (V1, V2)
    play(script, "ack")
    assert script.state.wanted_servers() == ()


def test_what_is_decided_is_told_after_its_steps(script):
    decision = play(script, *STABLE, "retire", "ack", "restore")
    message = wire.retirement_message("fraud", decision.retirement)
    assert [step.sequence for step in decision.steps] == [message.sequence - 1]
    assert (message.HasField("version"), message.retired, message.actor) == (False, False, "ana")
    assert message.rollout_id == script.state.rollout.rollout_id
    assert message.sequence == script.state.sequence


def test_a_model_comes_back_with_all_its_lines_the_unversioned_one_first(script):
    play(script, *TWO_LINES, "retire", "ack", "restore", "ready 1.0.0")
    assert lines(script) == {}
    play(script, "ready 2.0.0", "ack", "wait 0")
    assert list(lines(script).items()) == [(2, V2), (1, V1)]
    assert script.state.stable == V2


def test_nothing_of_a_retired_model_is_delivered_until_it_comes_back(script):
    play(script, *STABLE, "retire", "ack", "register 1.1.0", "bless 1.1.0", "bless 1.2.0", "register 1.2.0")
    assert script.state.rollout is None
    for asked in ("start 1.1.0", "rollback 1.0.0"):
        assert play(script, asked).code == "MODEL_RETIRED"
    play(script, "restore", "ready 1.0.0", "ack", "wait 0", "ack", "start 1.1.0")
    assert script.state.rollout.candidate == V11


def test_a_retired_version_is_not_delivered_until_it_comes_back(script):
    play(script, *STABLE, "register 1.1.0", "retire 1.1.0", "bless 1.1.0")
    assert script.state.rollout is None
    for asked in ("start 1.1.0", "rollback 1.1.0"):
        assert play(script, asked).code == "VERSION_RETIRED"
    play(script, "restore 1.1.0", "start 1.1.0")
    assert script.state.rollout.candidate == V11


def test_a_version_that_waits_for_its_turn_loses_it(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0", "register 1.2.0", "bless 1.2.0", "retire 1.2.0", "abort")
    assert script.state.rollout is None


def test_an_old_line_ends_and_comes_back_when_its_server_is_ready(script):
    play(script, *TWO_LINES)
    assert play(script, "retire 1.0.0").route_changed
    assert lines(script) == {2: V2}
    play(script, "ack")
    assert script.state.wanted_servers() == (V2,)
    assert not play(script, "restore 1.0.0").route_changed
    assert play(script, "ready 1.0.0").route_changed
    assert lines(script) == {2: V2, 1: V1}


def test_an_old_line_stays_away_where_another_version_has_it(script):
    play(script, *TWO_LINES, "retire 1.0.0", "ack", "register 1.1.0", "bless 1.1.0 settle_s=0", "start 1.1.0")
    play(script, "ready 1.1.0", "ack", "wait 0", "ack")
    assert script.state.stable == V11
    play(script, "restore 1.0.0")
    assert V1 not in script.state.wanted_servers()


def test_an_old_line_that_is_retired_while_the_model_is_does_not_come_back_with_it(script):
    play(script, *TWO_LINES, "retire", "ack", "retire 1.0.0", "restore", "ready 2.0.0", "ack", "wait 0")
    assert lines(script) == {2: V2}
    play(script, "retire", "ack", "restore 1.0.0", "restore", "ready 2.0.0", "ready 1.0.0", "ack", "wait 0")
    assert lines(script) == {2: V2, 1: V1}


@pytest.mark.parametrize(
    ("before", "asked", "code"),
    [
        (STABLE, "retire 1.0.0", "VERSION_STABLE"),
        (STABLE, "retire 7.0.0", "VERSION_NOT_FOUND"),
        (STABLE, "restore 7.0.0", "VERSION_NOT_FOUND"),
        (STABLE, "restore", "NOT_RETIRED"),
        (STABLE, "restore 1.0.0", "NOT_RETIRED"),
        ((*STABLE, "retire"), "retire", "RETIRED_ALREADY"),
        ((*STABLE, "retire"), "retire 1.0.0", "VERSION_STABLE"),
        ((*TWO_LINES, "retire 1.0.0"), "retire 1.0.0", "RETIRED_ALREADY"),
        ((*STABLE, "register 1.1.0", "bless 1.1.0"), "retire", "ROLLOUT_RUNNING"),
        ((*STABLE, "register 1.1.0", "bless 1.1.0"), "retire 1.1.0", "ROLLOUT_RUNNING"),
        ((*STABLE, "register 2.0.0", "bless 2.0.0", "ready 2.0.0", "ack"), "retire 1.0.0", "VERSION_STABLE"),
    ],
)
def test_what_makes_no_sense_changes_nothing_and_says_why(script, before, asked, code):
    play(script, *before)
    known = script.state
    decision = play(script, asked)
    assert (decision.code, decision.retirement, decision.route_changed) == (code, None, False)
    assert (script.state.retired, script.state.versions, script.state.route) == (
        known.retired,
        known.versions,
        known.route,
    )


def test_a_line_that_ends_during_a_rollout_makes_its_step_begin_anew(script):
    play(script, *TWO_LINES, "register 2.1.0", "bless 2.1.0", "ready 2.1.0", "ack", "evidence")
    (step,) = play(script, "retire 1.0.0").steps
    assert (step.rollout.phase, step.rollout.step_index, step.rollout.evidence) == (Phase.STEPPING, 0, ())


def test_a_model_that_never_served_is_retired_and_comes_back_to_nothing(script):
    play(script, "register 1.0.0", "retire", "bless 1.0.0")
    assert script.state.rollout is None
    assert play(script, "restore").steps == ()
    play(script, "start 1.0.0")
    assert script.state.rollout.candidate == V1


def test_a_model_that_does_not_come_up_again_may_be_started_by_hand(script):
    play(script, *STABLE, "retire", "ack", "restore", "failed 1.0.0 LOAD_FAILED")
    assert (script.state.rollout, script.state.stable) == (None, None)
    play(script, "start 1.0.0", "ready 1.0.0", "ack", "wait 0")
    assert script.state.stable == V1


def test_what_a_retired_model_comes_back_with_is_never_forgotten(script):
    play(script, *STABLE, "retire", "ack")
    for pipeline in range(1, KNOWN_VERSIONS_MAX + 1):
        play(script, f"register 1.0.{pipeline}")
    assert len(script.state.versions) == KNOWN_VERSIONS_MAX
    play(script, "restore", "ready 1.0.0", "ack", "wait 0")
    assert script.state.stable == V1


def test_a_snapshot_of_a_release_that_retired_nothing_is_read(script):
    play(script, *TWO_LINES)
    message = wire.state_message(script.state)
    document = json.loads(message.state_json)
    del document["retired"]
    for version in document["versions"]:
        del version["retired"]
        del version["held_line"]
    old = pb.RolloutState(model="fraud", state_json=json.dumps(document), format=message.format)
    assert wire.state_from(old) == script.state
