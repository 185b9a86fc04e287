"""The demo's story: a better version is delivered, one that fails live is rolled back, and no client notices."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import onnx
import pytest
from kafka import KafkaProducer

from tidegate.contracts.topics import TRAINING
from tidegate.stack.demo.models import (
    MODEL,
    train_aircraft_table,
    train_gradient_boosting,
    train_logistic_regression,
)
from tidegate.v1 import rollout_events_pb2 as pb

pytestmark = pytest.mark.timeout(600)

POLICY = """
model: flight-delay
registration: {required: [owner, description, metrics]}
validation: {metrics: [{name: roc_auc, min: 0.6}]}
rollout:
  on_minor: {strategy: canary, steps: [0.2, 0.5, 1.0], bake_s: 1}
  on_pipeline: {strategy: canary, steps: [0.3, 1.0], bake_s: 1}
  settle_s: 4
guards:
  items:
    - {metric: error_rate, margin: 0.05, floor: 0.2}
    - {metric: latency_ms, quantile: 0.9, ratio: 20, ceiling: 5000}
"""

SWITCH = """
model: flight-delay
registration: {required: [owner, description, metrics]}
rollout:
  on_pipeline: {strategy: blue_green}
  settle_s: 120
guards:
  items:
    - {metric: client_errors, margin: 0}
"""


def test_the_story(world, flights):
    # Given a policy, and a first version that serves
    world.policy(POLICY)
    assert world.publishes(train_logistic_regression(flights)) == "1.0.0"
    world.reaches("1.0.0", pb.PHASE_PROMOTED)
    world.stable_becomes("1.0.0")

    with world.live_traffic() as traffic:
        # When a significantly better version is trained
        assert world.publishes(train_gradient_boosting(flights)) == "1.1.0"
        # And somebody pauses it at its first step, looks, and resumes it
        paused = world.client.pause_rollout(world.reaches("1.1.0", pb.PHASE_STEPPING).rollout_id, reason="lunch")
        held = world.reaches("1.1.0", pb.PHASE_PAUSED)
        world.client.resume_rollout(paused.rollout_id)
        # Then it earns its traffic step by step, and becomes stable
        world.reaches("1.1.0", pb.PHASE_PROMOTED)
        shares = world.shares("1.1.0")
        assert shares == sorted(shares)
        assert {200_000, 500_000, 1_000_000} <= set(shares)
        (resumed,) = [step for step in world.steps("1.1.0") if step.sequence == held.sequence + 1]
        assert resumed.arms == held.arms
        assert "resumed" in resumed.reason
        world.stable_becomes("1.1.0")
        world.no_request_failed()

        # When a version passes every check, and can't answer what only live traffic has
        assert world.publishes(train_aircraft_table(flights)) == "1.1.1"
        # Then the evidence turns, and it is rolled back, acknowledged by the proxy
        breach = world.breach("1.1.1")
        assert breach.guard == "error_rate"
        assert breach.evidence.e_value >= breach.evidence.threshold
        rolled_back = world.reaches("1.1.1", pb.PHASE_ROLLED_BACK)
        world.log.wait_for(
            "acknowledged rollback",
            lambda event: (
                isinstance(event.message, pb.RouteApplied)
                and event.subject == MODEL
                and event.message.complete
                and event.message.revision >= rolled_back.route_revision
            ),
        )
        before = traffic.report()
        deadline = time.monotonic() + 60
        while traffic.report().requests < before.requests + 200:
            assert time.monotonic() < deadline, "the traffic has stopped"
            time.sleep(0.1)
        after = world.no_request_failed()
        assert after.by_version["1.1.1"] > 0
        assert set(after.since(before)) <= {"1.1.0", "1.1.1"}
        assert after.since(before).get("1.1.1", 0) <= 5  # answers that were under way
    assert world.stable() == "1.1.0"


def test_steps_are_in_order_without_gaps(world):
    sequences = [step.sequence for step in world.log.of_type("RolloutStep", MODEL)]
    assert sequences == list(range(1, len(sequences) + 1))


def test_a_version_that_refuses_callers_after_a_switch_at_once_is_rolled_back(world, flights):
    # Given a policy that switches at once and watches for nothing but client errors
    world.policy(SWITCH)
    trained = train_aircraft_table(flights)
    content = onnx.load_model_from_string(trained.onnx)
    content.doc_string = "the same again, as another file"
    with world.live_traffic() as traffic:
        deadline = time.monotonic() + 60
        while traffic.report().requests < 500:
            assert time.monotonic() < deadline, "there is no traffic"
            time.sleep(0.1)
        # When a version gets all traffic, and answers some of it with 400
        version = world.publishes(replace(trained, onnx=content.SerializeToString(deterministic=True)))
        world.reaches(version, pb.PHASE_SETTLING)
        # Then the jump of client errors is a breach, and the version before is back
        breach = world.breach(version)
        assert breach.guard == "client_errors"
        assert breach.evidence.candidate_estimate > 0.05 > breach.evidence.stable_estimate
        world.reaches(version, pb.PHASE_ROLLED_BACK)
    assert world.stable() == "1.1.0"


def test_rubbish_goes_aside_and_the_stream_goes_on(world, flights):
    settings = world.client.settings.kafka
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap)
    topic = TRAINING.full_name(settings.topic_prefix)
    producer.send(topic, key=b"flight-delay", value=b"\xff\x00 rubbish", headers=[("ce_type", b"TrainingCompleted")])
    producer.send(topic, key=b"flight-delay", value=b"no type at all")
    producer.flush()
    producer.close()
    world.log.wait_for_dead_letter("BODY_UNREADABLE")
    world.log.wait_for_dead_letter("EVENT_TYPE_MISSING")
    # The same training again is a duplicate, and answered.
    receipt_count = len(world.log.of_type("RegistrationDuplicate", MODEL))
    from tidegate.stack.demo.publication import prepare

    world.client.publish_training_completed(prepare(train_logistic_regression(flights), world.folder / "again"))
    world.log.wait_for(
        "duplicate",
        lambda _event: len([one for one in world.log.events if one.type == "RegistrationDuplicate"]) > receipt_count,
    )


def test_a_dead_gateway_comes_back_with_all_routes(world):
    pid = world.pid("gateway")
    os.kill(pid, signal.SIGKILL)
    with world.live_traffic() as traffic:
        deadline = time.monotonic() + 60
        while traffic.report().requests < 100:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert world.pid("gateway") != pid
    assert set(traffic.report().by_version) == {"1.1.0"}
