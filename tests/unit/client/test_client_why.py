from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from tidegate.client.why import describe, explain, version_of_rollout
from tidegate.contracts.codec import Event
from tidegate.contracts.names import format_version
from tidegate.v1.rollout_events_pb2 import RetirementChanged, RolloutCommand, RouteApplied
from tidegate.v1.values_pb2 import Version


def headlines(life: list[Event], **about: str) -> list[str]:
    return [line.headline for line in explain(life, model="churn", **about)]


def test_a_retirement_of_the_model_is_told_of_each_of_its_versions(life: list[Event]) -> None:
    version, others = Version(major=9), Version(major=1, minor=1, pipeline=1)
    for retired in (
        RetirementChanged(model="churn", retired=True, reason="kim took the model out of service", cause="because"),
        RetirementChanged(model="churn", version=version, retired=True),
    ):
        life.append(replace(life[0], message=retired, time=life[-1].time))
    told = explain(life, model="churn", version=format_version(others))
    assert told[-1].headline == "the model churn was retired"
    assert told[-1].details == ("kim took the model out of service", "because")


def test_what_people_asked_of_its_rollouts_is_told_with_their_reason(life: list[Event]) -> None:
    step = next(event.message for event in life if event.type == "RolloutStep")
    verb = RolloutCommand.VERB_ABORT
    for rollout_id, reason in ((step.rollout_id, "not on a Friday"), ("churn-9.0.0-00000000", "another's")):
        asked = RolloutCommand(model="churn", rollout_id=rollout_id, verb=verb, actor="kim", reason=reason)
        life.append(replace(life[0], message=asked, time=life[-1].time))
    told = explain(life, model="churn", version=format_version(step.candidate))
    assert ("kim commanded ABORT", ("not on a Friday",)) in [(line.headline, line.details) for line in told]
    assert all("another's" not in line.details for line in told)


def test_story_has_every_reason_in_order(life: list[Event]) -> None:
    told = headlines(life, version="1.1.1")
    assert told == [
        "registered as 1.1.1 (PIPELINE against 1.1.0)",
        "validation passed, 1 checks",
        "blessed: 1.1.1 may be delivered",
        "STEPPING step 1: 1.1.0 90 %, 1.1.1 10 %",
        "route 1/7 acknowledged by gateway-1 after 12.0 ms",
        "BREACH of error_rate",
        "ROLLING_BACK: 1.1.0 100 %, 1.1.1 0 %",
    ]


def test_events_that_arrive_out_of_order_are_told_in_order(life: list[Event]) -> None:
    assert headlines(life[::-1], version="1.1.1") == headlines(life, version="1.1.1")


def test_details_carry_the_numbers(life: list[Event]) -> None:
    lines = explain(life, model="churn", version="1.1.1")
    details = [detail for line in lines for detail in line.details]
    assert "another evaluation: not comparable" in details
    assert "passed metrics/roc_auc: 0.70, expected >= 0.60" in details
    assert any("evidence 250 against threshold 200" in detail for detail in details)
    assert any("first bad answer at 2026-01-01T12:00:00.000Z" in detail for detail in details)


def test_other_versions_and_models_are_left_out(life: list[Event]) -> None:
    assert headlines(life, version="1.1.0") == ["alias stable points to 1.1.0 (was 1.0.0)"]
    assert explain(life, model="another", version="1.1.1") == []


def test_named_rollout_leaves_other_rollouts_out(life: list[Event]) -> None:
    told = headlines(life, version="1.1.1", rollout_id="churn-1.1.1-ffffffff")
    assert not any("STEPPING" in headline or "BREACH" in headline for headline in told)
    assert told[0].startswith("registered")


def test_rollout_tells_its_version(life: list[Event]) -> None:
    assert version_of_rollout(life, "churn-1.1.1-00000000") == ("churn", "1.1.1")
    assert version_of_rollout(life, "nothing") is None


def test_heartbeats_say_nothing(life: list[Event]) -> None:
    assert [event.type for event in life if describe(event) is None] == ["MetricReport"]


def test_route_that_was_acknowledged_before_the_rollout_is_left_out(life: list[Event]) -> None:
    routes = [event for event in life if event.type == "RouteApplied"]
    early = replace(routes[0], id="early", time=life[0].time - timedelta(seconds=1))
    assert headlines([early, *life], version="1.1.1") == headlines(life, version="1.1.1")


def test_a_refused_route_is_told_in_the_proxys_words(life: list[Event]) -> None:
    refused = RouteApplied(model="churn", epoch=1, revision=7, refusal="no such cluster")
    line = describe(replace(life[0], message=refused))
    assert line is not None
    assert (line.headline, line.details) == ("a proxy refused route 1/7", ("no such cluster",))


def test_a_route_that_nobody_timed_has_no_time(life: list[Event]) -> None:
    routes = [event for event in life if event.type == "RouteApplied"]
    untimed = RouteApplied(model="churn", epoch=1, revision=7, applied=["gateway-1"], complete=True)
    told = describe(replace(routes[0], message=untimed))
    assert told is not None
    assert told.headline == "route 1/7 acknowledged by gateway-1"
