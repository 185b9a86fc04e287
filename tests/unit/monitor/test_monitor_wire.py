"""Envoy's entries and the contract's messages become values of the core, and back."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2

from tidegate.contracts.codec import Event
from tidegate.contracts.names import parse_version
from tidegate.core.clock import utc_now
from tidegate.monitor import wire
from tidegate.monitor.accesslog import STATUS_CLIENT_CLOSED, parse_route, read_attempt
from tidegate.monitor.batches import Assembler
from tidegate.v1 import policy_pb2
from tidegate.v1.rollout_events_pb2 import ARM_ROLE_CANDIDATE, ARM_ROLE_STABLE, PHASE_SETTLING, Arm, RolloutStep


def entry(
    *,
    cluster: str = "m@1.1.0",
    arm: str = "1.1.0",
    route: str = "m/1/7",
    request_id: str = "id-1",
    status: int | None = 200,
) -> Any:
    made = accesslog_pb2.HTTPAccessLogEntry()
    made.common_properties.upstream_cluster = cluster
    made.common_properties.start_time.FromMicroseconds(1_700_000_000_000_123)
    made.common_properties.duration.FromMicroseconds(4_567)
    made.request.request_id = request_id
    for name, text in (("x-tidegate-arm", arm), ("x-tidegate-route", route)):
        if text:
            made.request.request_headers[name] = text
    if status is not None:
        made.response.response_code.value = status
    return made


def event(message: Any) -> Event:
    return Event(
        message=message,
        id="e-1",
        source="tidegate/monitor",
        time=utc_now(),
        subject="m",
        correlation_id="c-1",
        partition=2,
        offset=33,
    )


def test_entry_becomes_an_attempt() -> None:
    attempt = read_attempt("gateway-1", entry())
    assert attempt is not None
    assert (attempt.key.node_id, attempt.key.model, attempt.key.epoch, attempt.key.revision) == ("gateway-1", "m", 1, 7)
    assert (attempt.assigned_arm, attempt.answering_arm, attempt.status) == ("1.1.0", "1.1.0", 200)
    assert (attempt.start_us, attempt.latency_us) == (1_700_000_000_000_123, 4_567)
    assert attempt.is_own()


def test_answer_of_another_cluster_is_no_own_attempt() -> None:
    attempt = read_attempt("gateway-1", entry(cluster="m@1.0.0"))
    assert attempt is not None
    assert not attempt.is_own()


def test_entry_without_an_answer_has_status_zero() -> None:
    attempt = read_attempt("gateway-1", entry(status=None))
    assert attempt is not None
    assert attempt.status == 0


def test_client_that_left_is_neither_answer_nor_broken_server() -> None:
    gone = entry(status=None)
    gone.common_properties.response_flags.downstream_connection_termination = True
    attempt = read_attempt("gateway-1", gone)
    assert attempt is not None
    assert attempt.status == STATUS_CLIENT_CLOSED


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(entry(route=""), id="not routed by us"),
        pytest.param(entry(arm=""), id="no arm"),
        pytest.param(entry(arm="latest"), id="arm is no version"),
        pytest.param(entry(cluster="other"), id="cluster names no version"),
        pytest.param(entry(request_id=""), id="no id"),
        pytest.param(entry(request_id="x" * 129), id="id too long"),
    ],
)
def test_other_entries_are_ignored(made: Any) -> None:
    assert read_attempt("gateway-1", made) is None


def test_mirrored_request_is_ignored() -> None:
    mirrored = entry()
    mirrored.request.authority = "gateway-shadow"
    assert read_attempt("gateway-1", mirrored) is None


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("team-a.m/2/13", ("team-a.m", 2, 13)),
        ("m/1", None),
        ("m/1/x", None),
        ("M/1/1", None),
        ("", None),
        ("m/1/2/3", None),
    ],
)
def test_route_is_parsed(text: str, route: tuple[str, int, int] | None) -> None:
    assert parse_route(text) == route


def test_rows_become_a_message_and_a_batch() -> None:
    assembler = Assembler()
    answers = [
        ("1.1.0", "1.1.0", 200),
        ("1.1.0", "1.1.0", 500),
        ("1.1.0", "1.1.0", 404),
        ("1.0.0", "1.0.0", 200),
        ("1.0.0", "1.0.0", None),
    ]
    for number, (arm, cluster, status) in enumerate(answers):
        attempt = read_attempt(
            "gateway-1", entry(arm=arm, cluster=f"m@{cluster}", status=status, request_id=f"id-{number}")
        )
        assert attempt is not None
        assembler.add(attempt)
    assembler.close_slice()
    fallback = read_attempt("gateway-1", entry(arm="1.1.0", cluster="m@1.0.0", request_id="id-1"))
    assert fallback is not None
    assembler.add(fallback)
    (part,) = assembler.close_slice()
    message = wire.to_batch_message(part)

    batch = wire.to_batch(event(message), message, candidate="1.1.0", stable="1.0.0", concurrent=True)

    assert len(message.columns.prediction_id) == 3
    assert (batch.candidate.requests, batch.candidate.failures, batch.candidate.broken) == (2, 2, 1)
    assert (batch.stable.requests, batch.stable.failures, batch.stable.broken) == (1, 1, 1)
    assert (batch.route, batch.partition, batch.offset) == ((1, 7), 2, 33)
    assert batch.start_us == 1_700_000_000_000_123


def test_only_good_answers_have_a_latency() -> None:
    assembler = Assembler()
    for number, status in enumerate((200, 204, 500)):
        attempt = read_attempt("gateway-1", entry(status=status, request_id=f"id-{number}"))
        assert attempt is not None
        assembler.add(attempt)
    first, second = assembler.close_slice(), assembler.close_slice()
    messages = [wire.to_batch_message(part) for part in (*first, *second)]
    batches = [wire.to_batch(event(one), one, candidate="1.1.0", stable="1.0.0", concurrent=True) for one in messages]
    assert [len(one.candidate.latencies_us) for one in batches] == [2, 0]


def step(*, stable_weight: int, with_stable: bool = True) -> RolloutStep:
    arms = [Arm(version=parse_version("1.1.0"), role=ARM_ROLE_CANDIDATE, weight_millionths=1_000_000 - stable_weight)]
    if with_stable:
        arms.append(Arm(version=parse_version("1.0.0"), role=ARM_ROLE_STABLE, weight_millionths=stable_weight))
    return RolloutStep(
        rollout_id="r",
        model="m",
        sequence=4,
        candidate=parse_version("1.1.0"),
        stable=parse_version("1.0.0") if with_stable else None,
        phase=PHASE_SETTLING,
        arms=arms,
        route_epoch=1,
        route_revision=9,
    )


@pytest.mark.parametrize(
    ("message", "concurrent"),
    [
        (step(stable_weight=100_000), True),
        (step(stable_weight=0), False),
        (step(stable_weight=0, with_stable=False), False),
    ],
)
def test_traffic_is_concurrent_where_stable_has_weight(message: RolloutStep, *, concurrent: bool) -> None:
    facts = wire.step_facts(event(message), message, step_requests_min=50)
    assert facts.route.concurrent is concurrent
    assert facts.route.route == (1, 9)
    assert not facts.terminal
    assert not facts.dormant


def test_step_without_guards_has_the_default_ones() -> None:
    facts = wire.step_facts(event(step(stable_weight=0)), step(stable_weight=0), step_requests_min=50)
    assert [guard.metric for guard in facts.rules.guards] == ["error_rate", "latency_ms"]
    assert facts.rules.alpha == 0.01


def test_guards_are_taken_from_the_step() -> None:
    policy = policy_pb2.GuardPolicy(alpha=0.05, items=[policy_pb2.Guard(metric="latency_ms", ratio=2.0)])
    rules = wire.rules_of(policy, "m", step_requests_min=7)
    (guard,) = rules.guards
    assert (rules.alpha, rules.step_requests_min, guard.ratio, guard.quantile) == (0.05, 7, 2.0, 0.99)


@pytest.mark.parametrize("microseconds", [0, 1, 1_700_000_000_999_999])
def test_times_round_trip(microseconds: int) -> None:
    assert wire.to_microseconds(wire.to_timestamp(microseconds)) == microseconds
