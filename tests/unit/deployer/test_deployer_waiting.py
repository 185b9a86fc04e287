"""A model host without room makes a rollout wait, which is no fault of the candidate."""

from __future__ import annotations

import json

from tidegate.deployer import wire
from tidegate.deployer.places import PlaceQueue
from tidegate.deployer.state import Number, Phase
from tidegate.v1 import rollout_events_pb2 as pb

STABLE = ("register 1.0.0", "bless 1.0.0 settle_s=0", "ready 1.0.0", "ack", "wait 0", "ack")
FULL = ("register 1.1.0", "bless 1.1.0 deadline_s=100", "full 1.1.0 32 of 32 servers run")
V11 = Number(1, 1, 0)


def play(script, *lines):
    for line in lines:
        decision = script.play(line)
    return decision


def test_it_says_what_it_waits_for_once(script):
    (step,) = play(script, *STABLE, *FULL).steps
    assert step.rollout.phase is Phase.STARTING
    message = wire.step_message("fraud", step)
    assert (message.waiting.code, message.waiting.message) == ("WAITING_FOR_SERVER", "32 of 32 servers run")
    assert message.reason.startswith("WAITING_FOR_SERVER: 1.1.0 starts as soon as there is room")
    assert play(script, "full 1.1.0 32 of 32 servers run").steps == ()


def test_waiting_does_not_count_for_the_deadline(script):
    play(script, *STABLE, *FULL, "wait 90", "wait 5000")
    assert script.state.rollout.phase is Phase.STARTING
    (step,) = play(script, "down 1.1.0").steps
    assert not wire.step_message("fraud", step).HasField("waiting")
    assert play(script, "wait 99").steps == ()
    assert "past its deadline" in play(script, "wait 2").reason


def test_it_goes_on_as_soon_as_its_server_is_ready(script):
    play(script, *STABLE, *FULL)
    assert play(script, "ready 1.1.0").steps[-1].rollout.phase is Phase.STEPPING
    assert script.state.rollout.waiting == ""


def test_a_server_that_fails_after_it_had_room_ends_the_rollout(script):
    play(script, *STABLE, *FULL, "down 1.1.0", "failed 1.1.0 LOAD_FAILED")
    assert script.state.rollout is None


def test_somebody_may_pause_or_abort_what_waits(script):
    play(script, *STABLE, *FULL, "pause", "ready 1.1.0")
    assert (script.state.rollout.phase, script.state.rollout.waiting) == (Phase.PAUSED, "")
    play(script, "resume")
    assert script.state.rollout.phase is Phase.STEPPING
    play(script, "abort", "ack", "start 1.1.0", "full 1.1.0 32 of 32 servers run", "abort")
    assert script.state.rollout is None


def test_a_rollout_of_a_release_that_never_waited_is_read(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0")
    message = wire.state_message(script.state)
    document = json.loads(message.state_json)
    for name in ("waiting", "waiting_since_s", "waited_s"):
        del document["rollout"][name]
    old = pb.RolloutState(model="fraud", state_json=json.dumps(document), format=message.format)
    assert wire.state_from(old) == script.state


def test_what_has_traffic_comes_before_who_waits_and_who_waits_before_the_new():
    places = PlaceQueue()
    places.refused("b")
    places.refused("a")
    assert places.in_turn({"new": False, "a": False, "b": False, "live": True}) == ["live", "b", "a", "new"]
    places.started("b")
    assert "b" not in places
    assert places.in_turn({"a": False}) == ["a"]
    assert places.in_turn({}) == []
    assert "a" not in places
