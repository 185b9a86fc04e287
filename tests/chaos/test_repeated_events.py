"""Events come again, late, out of order and damaged: each has its effect once, and the stream goes on."""

from __future__ import annotations

import pytest
from faults.arena import POLICY
from faults.failpoints import Kill, wait_until
from faults.history import Quality
from kafka import KafkaProducer

from tidegate.contracts.topics import COMMANDS, MONITORING, REGISTRY, ROLLOUTS, ROUTES, TRAINING, VALIDATION, Topic
from tidegate.core.policy import policy_from_yaml
from tidegate.stack.demo.models import MODEL
from tidegate.v1 import rollout_events_pb2 as pb

pytestmark = pytest.mark.timeout(900)

INPUTS = (TRAINING, REGISTRY, VALIDATION, MONITORING)
SECOND_MODEL = "taxi-time"


@pytest.fixture
def sender(arena):
    producer = KafkaProducer(bootstrap_servers=arena.client.settings.kafka.bootstrap, acks="all")
    yield producer
    producer.close()


def send_again(arena, sender, records) -> None:
    """Publish records as they were: same key, body, headers and partition."""
    for record in records:
        sender.send(
            record.topic, key=record.key, value=record.value, headers=record.headers, partition=record.partition
        )
    sender.flush()


def full_name(arena, topic: Topic) -> str:
    return topic.full_name(arena.client.settings.kafka.topic_prefix)


def test_everything_that_was_ever_said_is_said_again_in_the_middle_of_a_rollout(arena, sender):
    # A version that failed leaves evidence and a breach behind; another waits for its turn behind a third.
    failed = arena.deliver(Quality.FAILS_LIVE)
    arena.must_be_right()
    old = [record for record in arena.log.records() if record.topic in {full_name(arena, topic) for topic in INPUTS}]
    number = arena.number_of(arena.producer.publish(Quality.GOOD))
    arena.wait_phase(number, pb.PHASE_STEPPING)
    # The breach of the finished rollout, evidence of old routes, blessings of versions long gone: once more, backwards.
    send_again(arena, sender, old[::-1])
    arena.wait_end(number)
    again = arena.producer.publish(Quality.AGAIN)
    arena.log.wait_for(
        "answer to the training that came again",
        lambda event: event.type == "RegistrationDuplicate" and event.causation_id == again.event_id,
    )
    history = arena.must_be_right()
    breaches = {event.id for event in history.events if event.type == "MetricBreach"}
    assert breaches, f"{failed} left no breach to repeat"


def test_events_that_come_twice_and_of_two_models_at_once(arena, sender):
    arena.client.apply_policy(policy_from_yaml(POLICY.format(model=SECOND_MODEL, settle_s=2.0)))
    mark = len(arena.log.records())
    publications = [
        arena.producer.publish(Quality.GOOD),
        arena.producer.publish(Quality.GOOD, model=SECOND_MODEL),
        arena.producer.publish(Quality.GOOD),
    ]
    # Each record of the way is sent again as soon as it is seen, so that both are under way at once.
    topics = {full_name(arena, topic) for topic in INPUTS}
    ends = [(arena.number_of(one), one.model) for one in publications]
    send_again(arena, sender, [record for record in arena.log.records()[mark:] if record.topic in topics])
    for number, model in ends:
        arena.wait_phase(number, pb.PHASE_SETTLING, model=model)
        send_again(arena, sender, [record for record in arena.log.records()[mark:] if record.topic in topics])
    for number, model in ends:
        arena.wait_end(number, model=model)
    arena.must_be_right()


def test_damaged_events_go_aside_in_the_middle_of_a_rollout(arena, sender):
    publication = arena.producer.publish(Quality.GOOD)
    number = arena.number_of(publication)
    set_aside = len(arena.log.dead_letters)
    seen = arena.log.records()
    damaged = []
    for topic in (*INPUTS, COMMANDS, ROLLOUTS, ROUTES):
        name = full_name(arena, topic)
        record = next((one for one in reversed(seen) if one.topic == name), None)
        headers = record.headers if record is not None else [("ce_type", b"tidegate.v1.RolloutCommand")]
        sender.send(name, key=MODEL.encode(), value=b"\xff\x00 damaged", headers=headers)
        damaged.append(name)
    sender.flush()
    # Whoever reads its topics from their beginning gets past it, too.
    arena.heal(arena.strike(Kill("deployer")))
    arena.wait_end(number)
    arena.must_be_right()
    # Routes have no consumer group: nobody would commit that one was set aside.
    expected = {name for name in damaged if name != full_name(arena, ROUTES)}

    def origins() -> set[str]:
        letters = arena.log.dead_letters[set_aside:]
        return {letter["tidegate-origin"].decode().partition("/")[0] for letter in letters}

    wait_until(lambda: origins() == expected, "every damaged event is set aside")
