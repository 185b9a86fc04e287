"""Single cases that are easy to get wrong, each as short as it can be."""

from __future__ import annotations

from dataclasses import replace

from tidegate.deployer.events import Ticked
from tidegate.deployer.rollout import decide
from tidegate.deployer.state import Number, Phase

STABLE = ("register 1.0.0", "bless 1.0.0 settle_s=0", "ready 1.0.0", "ack", "wait 0", "ack")
V1, V11, V2 = Number(1, 0, 0), Number(1, 1, 0), Number(2, 0, 0)


def play(script, *lines):
    for line in lines:
        decision = script.play(line)
    return decision


def has_all_endpoints(state):
    return all(endpoint for _, endpoint in state.route.endpoints)


def answers(state):
    """Return the versions that unversioned requests reach."""
    return {arm.number for line in state.route.lines[:1] for arm in line.arms if arm.weight_millionths}


def test_approval_while_the_candidate_is_down_waits_for_its_server(script):
    play(script, *STABLE, "register 2.0.0", "bless 2.0.0 approvals=1,0,0", "ready 2.0.0", "ack", "down 2.0.0", "ack")
    play(script, "approve-version 2.0.0")
    assert has_all_endpoints(script.state)
    assert answers(script.state) == {V1}


def test_a_breach_while_the_old_line_restarts_keeps_its_endpoint(script):
    play(script, *STABLE, "register 2.0.0", "bless 2.0.0", "ready 2.0.0", "ack", "down 1.0.0", "ack")
    play(script, "breach errors")
    assert answers(script.state) == {V1}
    assert has_all_endpoints(script.state)


def test_a_restart_of_a_retained_server_does_not_flap_its_line(script):
    play(script, *STABLE, "register 2.0.0", "bless 2.0.0 settle_s=0", "ready 2.0.0", "ack", "wait 0", "ack")
    assert not play(script, "down 1.0.0").route_changed


def test_an_empty_route_survives_a_take_over(script):
    play(script, "register 1.0.0", "bless 1.0.0", "ready 1.0.0", "ack", "abort")
    assert script.state.rollout.phase is Phase.ROLLING_BACK
    assert play(script, "take-over").route_changed
    play(script, "ack")
    assert script.state.rollout is None


def test_superseding_the_only_version_leaves_it_in_service(script):
    play(script, "register 1.0.0", "bless 1.0.0", "ready 1.0.0", "ack", "register 1.1.0")
    play(script, "bless 1.1.0 mid_rollout=supersede")
    assert answers(script.state) == {V1}


def test_a_deadline_never_takes_the_only_version_out_of_service(script):
    play(script, "register 1.0.0", "bless 1.0.0 deadline_s=100", "ready 1.0.0", "ack", "wait 30", "wait 100")
    assert answers(script.state) == {V1}


def test_a_step_equal_to_the_holdback_share_settles(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0 steps=0.9,1 bake=0 holdback=0.1 settle_s=0", "ready 1.1.0")
    play(script, "ack", "evidence")
    assert script.state.rollout.phase is Phase.SETTLING
    if not script.state.route.acknowledged:
        play(script, "ack")
    play(script, "wait 0")
    assert script.state.stable == V11


def test_approval_of_a_paused_rollout_has_its_effect_when_it_resumes(script):
    play(script, *STABLE, "register 2.0.0", "bless 2.0.0 approvals=1,0,0", "ready 2.0.0", "ack", "pause")
    play(script, "approve-version 2.0.0", "resume")
    assert script.state.rollout.phase is Phase.SETTLING


def test_an_old_breach_does_not_cost_a_version_its_line(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0 bake=0", "ready 1.1.0", "ack", "breach errors", "ack")
    play(script, "bless 1.1.0 bake=0 settle_s=0", "ready 1.1.0", "ack", "promote full", "ack", "wait 0", "ack")
    assert script.state.stable == V11
    play(script, "register 2.0.0", "bless 2.0.0", "ready 2.0.0")
    assert [line.major for line in script.state.route.lines] == [2, 1]


def test_a_lower_version_does_not_supersede_a_higher_candidate(script):
    play(script, *STABLE, "register 1.1.0", "register 2.0.0", "bless 2.0.0", "ready 2.0.0", "ack")
    play(script, "bless 1.1.0 mid_rollout=supersede")
    assert script.state.rollout.candidate == V2
    assert script.state.rollout.phase is Phase.SETTLING


def test_a_second_blessing_of_the_candidate_does_not_supersede_it(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0", "ready 1.1.0", "ack")
    play(script, "bless 1.1.0 mid_rollout=supersede")
    assert script.state.rollout.phase is Phase.STEPPING


def test_superseding_keeps_blessings_that_wait_for_their_registration(script):
    play(script, *STABLE, "register 1.1.0", "register 1.2.0", "bless 1.1.0", "bless 2.0.0")
    play(script, "bless 1.2.0 mid_rollout=supersede")
    assert V2 in {waiting.number for waiting in script.state.queue}


def test_a_first_version_that_waits_for_approval_gets_no_unversioned_requests(script):
    play(script, "register 1.0.0", "bless 1.0.0 first_approval=operator", "ready 1.0.0")
    assert script.state.rollout.phase is Phase.AWAITING_APPROVAL
    assert answers(script.state) == set()


def test_a_major_version_that_waits_for_approval_gets_no_unversioned_requests(script):
    play(script, *STABLE, "register 2.0.0", "bless 2.0.0 approvals=1,0,0", "ready 2.0.0")
    assert answers(script.state) == {V1}


def test_a_server_that_is_no_longer_wanted_is_not_taken_for_ready(script):
    """Its host stops it without a word, so going back to it must wait for its new server."""
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0 bake=0 settle_s=0", "ready 1.1.0", "ack", "evidence", "ack")
    play(script, "wait 0", "ack")
    assert script.state.wanted_servers() == (V11,)
    play(script, "rollback")
    assert script.state.rollout.phase is Phase.STARTING


def test_evidence_does_not_outlive_the_route_it_belongs_to(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0 steps=0.1,1 bake=10", "ready 1.1.0", "ack", "evidence")
    moved = replace(script.events[-3], time_s=script.time_s, endpoint="unix:/run/elsewhere")
    decision = decide(script.state, moved)
    assert decision.route_changed
    assert [step.rollout.step_index for step in decision.steps] == [0]
    later = decide(decision.state, Ticked(time_s=script.time_s + 20.0))
    assert not later.steps


def test_a_command_has_its_effect_once(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0", "ready 1.1.0", "ack", "pause")
    command = script.events[-1]
    play(script, "resume")
    again = decide(script.state, command)
    assert again.state == script.state
    assert not again.steps


def test_nobody_can_start_a_version_around_the_approval_that_it_wants(script):
    play(script, *STABLE, "register 2.0.0", "bless 2.0.0 approvals=1,0,0 mode=observe")
    play(script, "rollback 2.0.0", "ready 2.0.0", "ack")
    assert answers(script.state) == {V1}
    play(script, "approve-version 2.0.0", "rollback 2.0.0")
    assert script.state.rollout.candidate == V2


def test_a_retained_line_stays_with_its_version_until_the_next_one_is_approved(script):
    v21 = Number(2, 1, 0)
    play(script, *STABLE, "register 2.0.0", "bless 2.0.0 settle_s=0", "ready 2.0.0", "ack", "wait 0", "ack")
    play(script, "rollback 1.0.0", "ready 1.0.0", "ack", "wait 0", "ack")
    assert script.state.stable == V1
    play(script, "register 2.1.0", "bless 2.1.0 approvals=1,0,0", "ready 2.1.0")
    second = {arm.number for line in script.state.route.lines if line.major == 2 for arm in line.arms}
    assert second == {V2}
    assert v21 not in script.state.route.versions()


def test_a_refused_step_goes_back_to_stable(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0", "ready 1.1.0")
    assert play(script, "refuse").route_changed
    assert answers(script.state) == {V1}
    (step,) = play(script, "ack").steps
    assert step.rollout.phase is Phase.ROLLED_BACK


def test_a_refused_first_route_ends_the_rollout(script):
    play(script, "register 1.0.0", "bless 1.0.0", "ready 1.0.0", "refuse", "ack")
    assert script.state.rollout is None
    assert script.state.route.lines == ()


def test_a_refusal_of_an_older_route_changes_nothing(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0", "ready 1.1.0", "ack")
    before = script.state
    assert play(script, "refuse 0.1").state == before


def test_a_first_version_that_breached_gives_way_to_the_next_one(script):
    play(script, "register 1.0.0", "bless 1.0.0", "ready 1.0.0", "ack", "breach errors")
    first = script.state.rollout.rollout_id
    play(script, "register 1.1.0", "bless 1.1.0 bake=0 settle_s=0")
    assert script.state.rollout.candidate == V11
    assert script.state.rollout.stable == V1
    assert answers(script.state) == {V1}
    ends = [step for decision in script.decisions for step in decision.steps if step.rollout.rollout_id == first]
    assert ends[-1].rollout.phase is Phase.SUPERSEDED
    play(script, "ready 1.1.0", "ack", "evidence", "ack", "wait 0", "ack")
    assert script.state.stable == V11


def test_a_version_that_waits_takes_over_when_the_first_one_breaches(script):
    play(script, "register 1.0.0", "bless 1.0.0", "ready 1.0.0", "ack", "register 1.1.0", "bless 1.1.0")
    assert script.state.rollout.candidate == V1
    play(script, "breach errors")
    assert script.state.rollout.candidate == V11
    assert answers(script.state) == {V1}


def test_a_lower_version_does_not_take_over_from_a_first_one_that_breached(script):
    play(script, "register 1.1.0", "bless 1.1.0", "ready 1.1.0", "ack", "breach errors")
    play(script, "register 1.0.0", "bless 1.0.0")
    assert script.state.rollout.candidate == V11


def test_a_version_is_not_promoted_while_its_server_is_down(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0 steps=1 settle_s=5", "ready 1.1.0", "ack", "down 1.1.0")
    assert play(script, "wait 10").steps == ()
    assert V1 in script.state.wanted_servers()
    play(script, "ready 1.1.0", "ack", "wait 10")
    assert script.state.stable == V11


def test_an_earned_step_waits_for_the_candidates_server(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0 bake=10", "ready 1.1.0", "ack", "evidence", "down 1.1.0")
    assert play(script, "wait 20").steps == ()
    play(script, "ready 1.1.0", "wait 0")
    assert script.state.rollout.phase is Phase.SETTLING


def test_nobody_ends_the_rollback_window_while_the_candidates_server_is_down(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0 steps=1 settle_s=50", "ready 1.1.0", "ack", "down 1.1.0")
    assert play(script, "promote").steps == ()
    assert V1 in script.state.wanted_servers()
    play(script, "ready 1.1.0", "ack", "promote")
    assert script.state.stable == V11


def test_what_has_settled_in_time_is_not_taken_back_by_its_deadline(script):
    play(script, *STABLE, "register 1.1.0", "bless 1.1.0 steps=1 settle_s=200 deadline_s=100", "ready 1.1.0", "ack")
    play(script, "wait 90", "wait 31")
    assert script.state.rollout.phase is Phase.HOLDING
    play(script, "wait 1")
    assert script.state.rollout.phase is Phase.HOLDING
    assert answers(script.state) == {V11}
