"""START tries a version again by the policy that it was blessed with, also after an upgrade and many policies."""

from __future__ import annotations

import json

import pytest

from tidegate.deployer import wire
from tidegate.deployer.policies import policy_of
from tidegate.deployer.state import POLICIES_MAX, Number, Phase
from tidegate.v1 import rollout_events_pb2 as pb

STABLE = ("register 1.0.0", "bless 1.0.0 settle_s=0", "ready 1.0.0", "ack", "wait 0", "ack")
ABORTED = ("register 1.1.0", "bless 1.1.0 steps=0.3,1 bake=7", "abort")
V11 = Number(1, 1, 0)


def play(script, *lines):
    for line in lines:
        decision = script.play(line)
    return decision


def test_it_is_a_new_rollout_by_the_versions_own_policy(script):
    play(script, *STABLE, *ABORTED)
    first = script.rollout_id
    play(script, "register 1.2.0", "bless 1.2.0 steps=0.5,1 bake=1", "abort")
    (step,) = play(script, "start 1.1.0").steps
    assert step.rollout.rollout_id not in {first, script.state.rollout_ids[0], script.state.rollout_ids[1]}
    assert (step.rollout.steps, step.rollout.bake_s, step.rollout.phase) == ((0.3, 1.0), 7.0, Phase.STARTING)
    assert "ana started it" in step.cause


@pytest.mark.parametrize(
    ("lines", "asked", "code"),
    [
        ((), "start 1.5.0", "VERSION_NOT_FOUND"),
        (("register 1.1.0",), "start 1.1.0", "VERSION_NOT_BLESSED"),
        ((), "start 1.0.0", "VERSION_STABLE"),
        ((*ABORTED, "register 1.2.0", "bless 1.2.0"), "start 1.1.0", "ROLLOUT_RUNNING"),
        (("register 1.1.0", "bless 1.1.0", "register 1.2.0", "bless 1.2.0"), "start 1.2.0", "ROLLOUT_RUNNING"),
        (("register 1.1.0", "bless 1.1.0 mode=observe"), "start 1.1.0", "POLICY_OBSERVES"),
    ],
)
def test_what_can_not_begin_changes_nothing_and_says_why(script, lines, asked, code):
    play(script, *STABLE, *lines)
    before = script.state
    decision = play(script, asked)
    assert (decision.code, decision.steps, decision.route_changed) == (code, (), False)
    assert (script.state.rollout, script.state.queue, script.state.route) == (
        before.rollout,
        before.queue,
        before.route,
    )


def test_nobody_starts_a_version_around_the_approval_that_it_wants(script):
    play(script, *STABLE, "register 2.0.0", "bless 2.0.0 approvals=1,0,0", "abort")
    play(script, "start 2.0.0", "ready 2.0.0")
    assert script.state.rollout.phase is Phase.AWAITING_APPROVAL


def test_a_first_version_that_was_aborted_can_be_tried_again(script):
    play(script, "register 1.0.0", "bless 1.0.0 settle_s=0", "abort", "start 1.0.0", "ready 1.0.0", "ack", "wait 0")
    assert script.state.stable == Number(1, 0, 0)


def test_policies_survive_in_the_snapshot_once_each(script):
    play(script, *STABLE, *ABORTED, "register 1.2.0", "bless 1.2.0 steps=0.3,1 bake=7", "abort")
    assert len(script.state.policies) == 2
    script.state = wire.state_from(wire.state_message(script.state))
    play(script, "start 1.1.0")
    assert script.state.rollout.steps == (0.3, 1.0)


def test_the_number_of_kept_policies_has_a_limit(script):
    play(script, *STABLE, *ABORTED)
    for pipeline in range(1, POLICIES_MAX + 2):
        play(script, f"register 1.1.{pipeline}", f"bless 1.1.{pipeline} bake={100 + pipeline}", "abort")
    assert len(script.state.policies) == POLICIES_MAX
    assert policy_of(script.state, script.state.version(V11)) is None
    assert play(script, "start 1.1.0").code == "POLICY_NOT_KEPT"


def test_a_snapshot_of_a_release_that_kept_no_policies_is_read(script):
    play(script, *STABLE, *ABORTED)
    message = wire.state_message(script.state)
    document = json.loads(message.state_json)
    del document["policies"]
    for version in document["versions"]:
        del version["policy_digest"]
    script.state = wire.state_from(
        pb.RolloutState(model="fraud", state_json=json.dumps(document), format=message.format)
    )
    assert play(script, "start 1.1.0").code == "POLICY_NOT_KEPT"
    play(script, "register 1.2.0", "bless 1.2.0", "abort", "start 1.2.0")
    assert script.state.rollout.candidate == Number(1, 2, 0)
