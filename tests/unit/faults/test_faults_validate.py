"""The judge of the fault tests is judged: each invariant catches a history that was made to break it, and only it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from faults.history import Answer, Excuse, Ground, History, Publication, Quality
from faults.validate import INVARIANTS, differences, violations
from google.protobuf.message import Message

from tidegate.contracts.codec import Event
from tidegate.contracts.names import parse_version
from tidegate.v1 import events_pb2, monitoring_events_pb2
from tidegate.v1 import rollout_events_pb2 as pb

MODEL = "fraud"
START_S = 1_700_000_000.0


def event(message: Message, name: str, *, cause: str = "", time_s: float = 0.0) -> Event:
    return Event(
        message=message,
        id=name,
        source="test",
        time=datetime.fromtimestamp(START_S + time_s, tz=UTC),
        subject=MODEL,
        correlation_id=name,
        causation_id=cause,
    )


def registered(number: str, training: str) -> Event:
    message = events_pb2.ModelRegistered(model=MODEL, version=parse_version(number))
    return event(message, f"registered-{training}", cause=training)


def judged(number: str, training: str) -> list[Event]:
    passed = events_pb2.ValidationPassed(model=MODEL, version=parse_version(number))
    blessed = events_pb2.ModelBlessed(model=MODEL, version=parse_version(number))
    cause = f"registered-{training}"
    return [event(passed, f"passed-{training}", cause=cause), event(blessed, f"blessed-{training}", cause=cause)]


def step(sequence, number, phase, share, *, stable="1.0.0", breached="", revision=1):
    arms = [pb.Arm(version=parse_version(number), role=pb.ARM_ROLE_CANDIDATE, weight_millionths=share)]
    if stable:
        arms.insert(
            0, pb.Arm(version=parse_version(stable), role=pb.ARM_ROLE_STABLE, weight_millionths=1_000_000 - share)
        )
    message = pb.RolloutStep(
        rollout_id=f"{MODEL}-{number}",
        model=MODEL,
        sequence=sequence,
        candidate=parse_version(number),
        stable=parse_version(stable) if stable else None,
        phase=phase,
        arms=arms,
        breached_guard=breached,
        route_epoch=1,
        route_revision=revision,
    )
    return event(message, f"step-{sequence}-{phase}")


def table(revision, **shares):
    arms = [
        pb.RouteArm(version=parse_version(number.strip("v").replace("_", ".")), weight_millionths=share)
        for number, share in shares.items()
    ]
    message = pb.RouteTable(model=MODEL, epoch=1, revision=revision, lines=[pb.RouteLine(major=1, arms=arms)])
    return event(message, f"table-{revision}")


def applied(revision, time_s):
    message = pb.RouteApplied(model=MODEL, epoch=1, revision=revision, applied=["gateway-1"], complete=True)
    return event(message, f"applied-{revision}", time_s=time_s)


def answer(number: str, begin_s: float, status: int = 200) -> Answer:
    begin_s += START_S
    return Answer(begin_s=begin_s, end_s=begin_s + 0.01, status=status, model=MODEL, version=number)


def good_history() -> History:
    """Return what happens without faults: one version is delivered, one breaches and is sent back."""
    breach = monitoring_events_pb2.MetricBreach(model=MODEL, version=parse_version("1.0.1"), guard="error_rate")
    events = [
        registered("1.0.0", "a"),
        *judged("1.0.0", "a"),
        step(1, "1.0.0", pb.PHASE_STARTING, 0, stable=""),
        table(1, v1_0_0=1_000_000),
        step(2, "1.0.0", pb.PHASE_SETTLING, 1_000_000, stable=""),
        step(3, "1.0.0", pb.PHASE_PROMOTED, 1_000_000, stable=""),
        registered("1.0.1", "b"),
        *judged("1.0.1", "b"),
        step(4, "1.0.1", pb.PHASE_STARTING, 0),
        table(2, v1_0_0=700_000, v1_0_1=300_000),
        step(5, "1.0.1", pb.PHASE_STEPPING, 300_000, revision=2),
        event(breach, "breach"),
        table(3, v1_0_0=1_000_000),
        step(6, "1.0.1", pb.PHASE_ROLLING_BACK, 0, breached="error_rate", revision=3),
        applied(3, 20.0),
        step(7, "1.0.1", pb.PHASE_ROLLED_BACK, 0, breached="error_rate", revision=3),
    ]
    return History(
        events=tuple(events),
        answers=(
            *(answer("1.0.0", begin_s) for begin_s in range(1, 31)),
            answer("1.0.1", 15.0),
            answer("1.0.1", 20.5),
        ),
        publications=(
            Publication(event_id="a", model=MODEL, quality=Quality.GOOD),
            Publication(event_id="b", model=MODEL, quality=Quality.FAILS_LIVE),
        ),
    )


GROUND = Ground(stable={MODEL: "1.0.0"}, live_servers=frozenset({f"{MODEL}@1.0.0"}))


def with_events(*more: Event) -> History:
    history = good_history()
    return replace(history, events=(*history.events, *more))


def without(*names: str) -> History:
    history = good_history()
    return replace(history, events=tuple(one for one in history.events if one.id not in names))


def with_answers(*more: Answer) -> History:
    history = good_history()
    return replace(history, answers=(*history.answers, *more))


def changed(name: str, message: Message) -> History:
    history = good_history()
    events = (replace(one, message=message) if one.id == name else one for one in history.events)
    return replace(history, events=tuple(events))


def same_with(name: str, **fields: object) -> Message:
    original = next(one.message for one in good_history().events if one.id == name)
    message = type(original)()
    message.CopyFrom(original)
    for field, value in fields.items():
        if isinstance(value, Message):
            getattr(message, field).CopyFrom(value)
        else:
            setattr(message, field, value)
    return message


STEP_5 = f"step-5-{pb.PHASE_STEPPING}"
STEP_7 = f"step-7-{pb.PHASE_ROLLED_BACK}"
BAD = {
    "a request fails": ("no_request_fails", with_answers(answer("1.0.0", 5.0, status=503))),
    "a client gets no answer": ("no_request_fails", with_answers(answer("", 5.0, status=0))),
    "all requests are held up": (
        "traffic_never_stands_still",
        replace(good_history(), answers=(answer("1.0.0", 1.0), answer("1.0.0", 7.0))),
    ),
    "a version is judged twice": (
        "every_version_has_one_verdict",
        with_events(
            event(
                events_pb2.ValidationPassed(model=MODEL, version=parse_version("1.0.1")),
                "once more",
                cause="registered-b",
            )
        ),
    ),
    "a training is lost": ("every_training_has_one_answer", without("registered-b", "passed-b", "blessed-b")),
    "a training is registered twice": (
        "every_training_has_one_answer",
        with_events(replace(registered("1.0.2", "b"), id="again"), *judged("1.0.2", "b")),
    ),
    "a version is never judged": ("every_version_has_one_verdict", without("passed-a", "blessed-a")),
    "a version passes and fails": (
        "every_version_has_one_verdict",
        with_events(
            event(events_pb2.ValidationFailed(model=MODEL, version=parse_version("1.0.1")), "f", cause="registered-b")
        ),
    ),
    "a version passes and is not blessed": ("every_version_has_one_verdict", without("blessed-b")),
    "a repeat says something else": (
        "repeats_are_the_same",
        with_events(replace(registered("1.0.1", "b"), message=same_with("registered-b", reason="other"))),
    ),
    "a number is skipped": (
        "numbers_have_no_gap",
        changed("registered-b", same_with("registered-b", version=parse_version("1.0.2"))),
    ),
    "a number is reused": (
        "numbers_have_no_gap",
        changed("registered-b", same_with("registered-b", version=parse_version("1.0.0"))),
    ),
    "a step is missing": ("steps_are_counted_without_gap", without(STEP_5)),
    "a step is doubled": (
        "steps_are_counted_without_gap",
        with_events(step(7, "1.0.1", pb.PHASE_ROLLED_BACK, 0, breached="error_rate")),
    ),
    "steps are out of order": (
        "steps_are_counted_without_gap",
        replace(good_history(), events=tuple(reversed(good_history().events))),
    ),
    "a rollout never ends": ("every_rollout_ends_once", without(STEP_7)),
    "a rollout goes on after its end": (
        "every_rollout_ends_once",
        with_events(step(8, "1.0.1", pb.PHASE_ROLLING_BACK, 0, breached="error_rate")),
    ),
    "a rollout ends twice": (
        "every_rollout_ends_once",
        with_events(step(8, "1.0.1", pb.PHASE_ABORTED, 0, breached="error_rate")),
    ),
    "a blessed version has no rollout": (
        "every_rollout_ends_once",
        with_events(registered("1.0.2", "c"), *judged("1.0.2", "c")),
    ),
    "a line's weights sum to less": ("weights_sum_to_the_whole", with_events(table(4, v1_0_0=999_999))),
    "a step's weights sum to nothing": (
        "weights_sum_to_the_whole",
        changed(
            STEP_5,
            pb.RolloutStep(rollout_id="r", stable=parse_version("1.0.0"), candidate=parse_version("1.0.1"), sequence=5),
        ),
    ),
    "an old owner writes a route": ("routes_rise", with_events(table(2, v1_0_0=1_000_000))),
    "a stranger answers": ("nothing_unblessed_serves", with_answers(answer("6.6.6", 5.0))),
    "a breached arm rises": (
        "a_breached_arm_never_rises",
        with_events(step(8, "1.0.1", pb.PHASE_STEPPING, 10, breached="error_rate")),
    ),
    "a breached arm gets requests": ("a_breached_arm_gets_no_requests", with_answers(answer("1.0.1", 25.0))),
}


def test_a_good_history_is_good():
    assert violations(good_history()) == []
    assert differences(good_history(), GROUND) == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_caught(name):
    invariant, history = BAD[name]
    assert invariant in {fault.partition(":")[0] for fault in violations(history)}


def test_each_invariant_has_a_history_that_breaks_it():
    assert {invariant for invariant, _ in BAD.values()} == {check.__name__ for check in INVARIANTS}


def test_a_request_may_fail_only_while_what_answers_it_is_dead():
    failed = with_answers(answer("", 5.0, status=0))
    gateway = Excuse(what="gateway", begin_s=START_S + 4.9, end_s=START_S + 5.5)
    assert violations(replace(failed, excuses=(gateway,))) == []
    earlier = Excuse(what="gateway", begin_s=START_S + 3.0, end_s=START_S + 4.9)
    assert violations(replace(failed, excuses=(earlier,))) != []


def test_an_event_may_be_delivered_again():
    again = good_history()
    assert violations(replace(again, events=(*again.events, registered("1.0.1", "b")))) == []


@pytest.mark.parametrize(
    ("ground", "what"),
    [
        (replace(GROUND, stable={MODEL: "1.0.1"}), "stable is"),
        (replace(GROUND, live_servers=frozenset({"fraud@1.0.0", "fraud@1.0.1"})), "live servers"),
        (replace(GROUND, live_servers=frozenset()), "live servers"),
        (replace(GROUND, sandbox_servers=frozenset({"fraud@1.0.1"})), "sandbox servers"),
    ],
)
def test_another_end_than_without_faults_is_told(ground, what):
    (difference,) = differences(good_history(), ground)
    assert difference.startswith(what)


def test_another_route_or_ending_than_without_faults_is_told():
    assert [one.partition(" ")[0] for one in differences(with_events(table(4, v1_0_1=1_000_000)), GROUND)] == ["routes"]
    aborted = changed(STEP_7, same_with(STEP_7, phase=pb.PHASE_ABORTED))
    assert [one.partition(" ")[0] for one in differences(aborted, GROUND)] == ["endings"]


def test_a_version_killed_on_trial_may_be_sent_back():
    history = replace(
        good_history(),
        publications=tuple(replace(one, quality=Quality.GOOD) for one in good_history().publications),
    )
    assert [one.partition(" ")[0] for one in differences(history, GROUND)] != []
    assert differences(replace(history, killed_on_trial=frozenset({"fraud@1.0.1"})), GROUND) == []


def test_an_answer_cut_off_by_a_kill_is_excused_and_no_other_failure_is():
    kill = Excuse(what="candidate's server", begin_s=START_S + 4.9, end_s=START_S + 5.5, cut_only=True)
    cut = replace(answer("", 5.0, status=0), text="IncompleteRead(0 bytes read, 228 more expected)")
    refused = replace(cut, status=503, text="no healthy upstream")
    assert violations(replace(with_answers(cut), excuses=(kill,))) == []
    assert violations(replace(with_answers(refused), excuses=(kill,))) != []
