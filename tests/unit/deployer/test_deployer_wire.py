"""The contract's messages and the core's values say the same."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf import json_format

from tidegate.contracts import codec
from tidegate.core.policy import default_policy, resolve_policy
from tidegate.deployer import events as core
from tidegate.deployer import wire
from tidegate.deployer.state import Arm, KnownVersion, Line, ModelState, Number, Phase, Role, Route
from tidegate.deployer.xds.checks import check_table
from tidegate.v1 import events_pb2, monitoring_events_pb2
from tidegate.v1 import rollout_events_pb2 as pb
from tidegate.v1.policy_pb2 import GuardPolicy
from tidegate.v1.values_pb2 import Artifact, Version

V2 = Version(major=1, minor=2, pipeline=3)
N2 = Number(1, 2, 3)
TIME_S = 1_700_000_000.25
EVIDENCE = pb.Evidence(
    guard="errors",
    e_value=21.5,
    threshold=20.0,
    candidate_estimate=0.01,
    stable_estimate=0.02,
    candidate_count=100,
    stable_count=900,
)


def event_of(message):
    return codec.Event(
        message=message,
        id="11111111-2222-5333-8444-555555555555",
        source="tidegate/test",
        time=datetime(2026, 1, 2, tzinfo=UTC),
        subject="fraud",
        correlation_id="correlation",
    )


def core_of(message):
    return wire.core_event(event_of(message), TIME_S)


@pytest.mark.parametrize("number", [Number(0, 0, 0), Number(1, 2, 3), Number(10, 200, 3000)])
def test_numbers_go_there_and_back(number):
    assert wire.number_from(wire.version_from(number)) == number


def test_registered_version_carries_what_its_server_needs():
    artifact = Artifact(uri="s3://tidegate-artifacts/a", digest="sha256:ab", size_bytes=7, format="onnx")
    event = core_of(events_pb2.ModelRegistered(model="fraud", version=V2, artifact=artifact))
    assert event == core.VersionRegistered(
        time_s=TIME_S,
        cause="ModelRegistered 11111111-2222-5333-8444-555555555555",
        version=KnownVersion(
            number=N2, uri="s3://tidegate-artifacts/a", digest="sha256:ab", size_bytes=7, format="onnx"
        ),
    )


def test_blessing_names_one_rollout_however_often_it_comes():
    policy = resolve_policy(default_policy("fraud"))
    message = events_pb2.ModelBlessed(model="fraud", version=V2, policy=policy, policy_revision=4)
    blessed = core_of(message).blessed
    assert blessed == core_of(message).blessed
    assert blessed.number == N2
    assert blessed.policy.revision == 4
    assert blessed.correlation_id == "correlation"
    assert blessed.rollout_id == wire.rollout_id_for("fraud", N2, blessed.cause_id)
    assert blessed.rollout_id.startswith("fraud-1.2.3-")
    assert wire.rollout_id_for("fraud", N2, "another") != blessed.rollout_id


def test_policy_keeps_what_delivery_obeys():
    policy = resolve_policy(default_policy("fraud"))
    policy.rollout.holdback = 0.1
    policy.rollout.mid_rollout = "supersede"
    policy.rollout.on_breach = "freeze"
    delivery = wire.policy_from(policy, 9)
    assert delivery.on_minor.name == policy.rollout.on_minor.strategy
    assert delivery.on_minor.steps == tuple(policy.rollout.on_minor.steps)
    assert delivery.on_minor.steps[-1] == 1.0
    assert delivery.settle_s == policy.rollout.settle_s
    assert delivery.deadline_s == policy.rollout.deadline_s
    assert (delivery.holdback, delivery.mid_rollout, delivery.on_breach) == (0.1, "supersede", "freeze")
    assert delivery.approvals == (
        policy.registration.approvals.major,
        policy.registration.approvals.minor,
        policy.registration.approvals.pipeline,
    )
    assert json_format.Parse(delivery.guards_json, GuardPolicy()) == policy.guards


def test_approval_names_its_version():
    event = core_of(events_pb2.VersionApproved(model="fraud", version=V2, actor="ana"))
    assert isinstance(event, core.VersionApproved)
    assert event.number == N2


@pytest.mark.parametrize("verb", core.Verb)
def test_every_verb_is_understood(verb):
    command = pb.RolloutCommand(
        request_id="r1", verb=pb.RolloutCommand.Verb.Value(f"VERB_{verb}"), model="fraud", rollout_id="x", actor="ana"
    )
    event = core_of(command)
    assert (event.verb, event.request_id, event.rollout_id, event.actor) == (verb, "r1", "x", "ana")
    assert event.number is None
    assert not event.full


def test_the_contract_has_no_other_verb():
    names = {name.removeprefix("VERB_") for name in pb.RolloutCommand.Verb.keys()}  # noqa: SIM118  (no mapping)
    assert names == {*core.Verb, "UNSPECIFIED"}


def test_command_keeps_version_mode_and_reason():
    command = pb.RolloutCommand(
        request_id="r1",
        verb=pb.RolloutCommand.VERB_PROMOTE,
        version=V2,
        mode=pb.RolloutCommand.MODE_FULL,
        reason="it is good",
    )
    event = core_of(command)
    assert event.full
    assert event.number == N2
    assert event.cause.endswith(": it is good")
    assert event.actor == "somebody"


def test_evidence_belongs_to_a_route():
    message = monitoring_events_pb2.EvidenceReached(rollout_id="x", route_epoch=3, route_revision=4, evidence=EVIDENCE)
    event = core_of(message)
    assert isinstance(event, core.EvidenceReached)
    assert (event.rollout_id, event.epoch, event.revision) == ("x", 3, 4)
    assert event.evidence == wire.evidence_from(EVIDENCE)


def test_breach_names_its_guard():
    event = core_of(monitoring_events_pb2.MetricBreach(rollout_id="x", guard="errors", evidence=EVIDENCE))
    assert isinstance(event, core.MetricBreached)
    assert (event.rollout_id, event.guard) == ("x", "errors")
    assert event.evidence.candidate_count == 100


def test_a_report_about_a_rollout_is_a_heartbeat():
    event = core_of(monitoring_events_pb2.MetricReport(model="fraud", rollout_id="x"))
    assert event == core.HeartbeatSeen(
        time_s=TIME_S, cause="MetricReport 11111111-2222-5333-8444-555555555555", rollout_id="x"
    )


@pytest.mark.parametrize(
    "message",
    [
        monitoring_events_pb2.MetricReport(model="fraud"),
        pb.RolloutCommand(request_id="r1", model="fraud"),
        pb.RouteApplied(model="fraud"),
    ],
    ids=["report without rollout", "command without verb", "not for the core"],
)
def test_what_means_nothing_to_the_core_is_nothing(message):
    assert core_of(message) is None


def test_step_message_says_all_of_a_step(script):
    for line in ("register 1.0.0", "bless 1.0.0 settle_s=0", "ready 1.0.0", "ack", "wait 0", "ack", "register 1.1.0"):
        script.play(line)
    for line in ("bless 1.1.0 steps=0.1,1 bake=0", "ready 1.1.0", "ack"):
        script.play(line)
    step = script.play("breach errors").steps[0]
    message = wire.step_message("fraud", step)
    assert message.rollout_id == step.rollout.rollout_id
    assert message.model == "fraud"
    assert message.sequence == step.sequence
    assert message.phase == pb.PHASE_ROLLING_BACK
    assert wire.number_from(message.candidate) == Number(1, 1, 0)
    assert wire.number_from(message.stable) == Number(1, 0, 0)
    assert [(arm.role, arm.weight_millionths) for arm in message.arms] == [
        (pb.ARM_ROLE_STABLE, 1_000_000),
        (pb.ARM_ROLE_CANDIDATE, 0),
    ]
    assert (message.route_epoch, message.route_revision) == (0, 4)
    assert message.breached_guard == "errors"
    assert [wire.evidence_from(item) for item in message.evidence] == [*step.rollout.evidence]
    assert message.decided_time.ToMicroseconds() == 1_000_000_000
    assert message.policy_revision == 1


def test_step_of_a_first_version_has_no_stable(script):
    script.play("register 1.0.0")
    message = wire.step_message("fraud", script.play("bless 1.0.0").steps[0])
    assert not message.HasField("stable")
    assert message.phase == pb.PHASE_STARTING


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_in_the_contract(phase):
    assert pb.Phase.Value(f"PHASE_{phase}") > 0


def test_route_message_is_legal_for_proxies():
    stable, candidate = Number(1, 0, 0), Number(1, 1, 0)
    arms = (
        Arm(number=stable, role=Role.STABLE, weight_millionths=900_000),
        Arm(number=candidate, role=Role.CANDIDATE, weight_millionths=100_000),
    )
    route = Route(
        epoch=2,
        revision=3,
        lines=(Line(major=1, arms=arms, fallback=stable),),
        endpoints=((stable, "unix:/run/a"), (candidate, "127.0.0.1:9000")),
    )
    message = wire.route_message("fraud", route)
    check_table(message)
    assert (message.model, message.epoch, message.revision) == ("fraud", 2, 3)
    (line,) = message.lines
    assert wire.number_from(line.fallback_version) == stable
    assert [(wire.number_from(arm.version), [*arm.endpoints]) for arm in line.arms] == [
        (stable, ["unix:/run/a"]),
        (candidate, ["127.0.0.1:9000"]),
    ]
    assert line.assignment == pb.RouteLine.ASSIGNMENT_REQUEST


def test_a_line_without_candidate_has_no_fallback():
    whole = Arm(number=Number(1, 0, 0), role=Role.STABLE, weight_millionths=1_000_000)
    message = wire.route_message("fraud", Route(lines=(Line(major=1, arms=(whole,)),)))
    assert not message.lines[0].HasField("fallback_version")


def test_snapshot_of_another_format_is_refused():
    message = wire.state_message(ModelState(model="fraud"))
    message.format += 1
    with pytest.raises(ValueError, match=r"'fraud' has format 2, expected 1"):
        wire.state_from(message)


def test_snapshots_of_equal_states_are_equal_bytes():
    one, two = (wire.state_message(ModelState(model="fraud")) for _ in range(2))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)
    assert wire.state_from(one) == ModelState(model="fraud")


def test_what_proxies_say_about_a_route():
    stamp = {"time_s": TIME_S, "cause": "RouteApplied 3.4"}
    route = {"epoch": 3, "revision": 4}
    applied = pb.RouteApplied(model="fraud", **route, applied=["gateway-1"], complete=True)
    assert core_of(applied) == core.RouteAcknowledged(**stamp, **route)
    refused = pb.RouteApplied(model="fraud", **route, refusal="no such cluster")
    assert core_of(refused) == core.RouteRefused(**stamp, **route, message="no such cluster")
    assert core_of(pb.RouteApplied(model="fraud", **route, missing=["gateway-1"])) is None
