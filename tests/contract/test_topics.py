"""The topic table against the contract's own words."""

import pytest

from tidegate.contracts.topics import TOPIC_BY_MESSAGE, TOPICS
from tidegate.v1 import events_pb2, monitoring_events_pb2, rollout_events_pb2

CONTRACT = {
    "training": {"TrainingCompleted"},
    "registry": {
        "ModelRegistered",
        "RegistrationRejected",
        "RegistrationDuplicate",
        "AliasMoved",
        "VersionApproved",
        "VersionRejected",
    },
    "policies": {"PolicyApplied"},
    "validation": {"ValidationPassed", "ValidationFailed", "ModelBlessed"},
    "commands": {"RolloutCommand"},
    "rollouts": {"RolloutStep", "RouteApplied", "RetirementChanged"},
    "rollout-state": {"RolloutState"},
    "routes": {"RouteTable"},
    "predictions": {"PredictionBatch"},
    "outcomes": {"OutcomeBatch"},
    "monitoring": {"MetricReport", "EvidenceReached", "MetricBreach", "DriftDetected"},
    "dead-letter": set(),
}


def test_the_table_is_the_contracts():
    assert {topic.name: set(topic.messages) for topic in TOPICS} == CONTRACT


def test_each_message_is_on_one_topic_and_has_a_model():
    assert sum(len(topic.messages) for topic in TOPICS) == len(TOPIC_BY_MESSAGE)
    for name in TOPIC_BY_MESSAGE:
        module = next(m for m in (events_pb2, rollout_events_pb2, monitoring_events_pb2) if hasattr(m, name))
        assert "model" in getattr(module, name).DESCRIPTOR.fields_by_name, name


@pytest.mark.parametrize("name", ["policies", "rollout-state", "routes"])
def test_snapshots_are_compacted(name):
    topic = next(topic for topic in TOPICS if topic.name == name)
    assert topic.broker_config() == {"cleanup.policy": "compact"}


def test_history_is_kept_for_ever():
    for name in ("registry", "validation", "rollouts"):
        topic = next(topic for topic in TOPICS if topic.name == name)
        assert topic.broker_config()["retention.ms"] == "-1"


def test_a_prefix_keeps_environments_apart():
    assert TOPICS[0].full_name("staging") == "staging.training"
