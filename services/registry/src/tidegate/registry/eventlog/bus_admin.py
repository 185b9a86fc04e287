"""Questions to the broker that a catch-up has: which cluster it is, and where the registry's group stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Final

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import (
    IllegalGenerationError,
    KafkaError,
    NoError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from tidegate.contracts.principals import REGISTRY_PRINCIPAL
from tidegate.contracts.topics import ROLLOUTS, TRAINING, VALIDATION
from tidegate.core.bus import admin_client
from tidegate.core.errors import Unavailable
from tidegate.core.kafka_access import explain_blocking
from tidegate.core.settings import KafkaSettings

INPUTS: Final = (TRAINING, VALIDATION, ROLLOUTS)

# What the broker answers to an outsider while the group has members.
_IN_USE: Final = {UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError}

Offsets = dict[str, dict[int, int]]


def read_bus_id(kafka: KafkaSettings) -> str:
    """Return what tells this bus from any other: the cluster's id and the prefix of the topics; blocking.

    Raises:
        Unavailable: The broker can't be reached.

    """
    with _admin(kafka) as admin:
        return f"{admin.describe_cluster()['cluster_id']}/{kafka.topic_prefix}"


def read_partitions(kafka: KafkaSettings, topic: str) -> list[int]:
    """Return the numbers of all partitions of ``topic`` (its full name); blocking.

    Raises:
        Unavailable: The broker can't be reached, or there is no such topic (code TOPIC_MISSING).

    """
    with _admin(kafka) as admin:
        found = {each["name"]: each["partitions"] for each in admin.describe_topics([topic])}
    numbers = sorted(int(each["partition_index"]) for each in found.get(topic, ()))
    if not numbers:
        raise Unavailable(f"the topic {topic} does not exist", code="TOPIC_MISSING", hint="create the topics first")
    return numbers


def read_input_offsets(kafka: KafkaSettings) -> Offsets:
    """Return what the registry has committed of its input topics (full names); blocking.

    Raises:
        Unavailable: The broker can't be reached.

    """
    group = REGISTRY_PRINCIPAL.consumer_group(kafka.topic_prefix)
    names = {topic.full_name(kafka.topic_prefix) for topic in INPUTS}
    with _admin(kafka) as admin:
        committed = admin.list_group_offsets({group: None}).get(group, {})
    found: Offsets = {}
    for partition, held in committed.items():
        if partition.topic in names and held.offset >= 0:
            found.setdefault(partition.topic, {})[int(partition.partition)] = int(held.offset)
    return found


def has_members(kafka: KafkaSettings) -> bool:
    """Return whether any registry is in the consumer group; blocking.

    Raises:
        Unavailable: The broker can't be reached.

    """
    group = REGISTRY_PRINCIPAL.consumer_group(kafka.topic_prefix)
    with _admin(kafka) as admin:
        return bool(admin.describe_groups([group])[group]["members"])


def rewind_inputs(kafka: KafkaSettings, wanted: Mapping[str, Mapping[int, int]]) -> Offsets:
    """Have the group read its inputs again from ``wanted`` (absent = the beginning), never further on; blocking.

    Returns the offsets as they are now, which are later ones where a topic's beginning has expired. The group must have
    no member.

    Raises:
        Unavailable: The broker can't be reached, or somebody is in the group still.

    """
    group = REGISTRY_PRINCIPAL.consumer_group(kafka.topic_prefix)
    changed: Offsets = {}
    for topic, partitions in read_input_offsets(kafka).items():
        for partition, committed in partitions.items():
            target = wanted.get(topic, {}).get(partition, 0)
            if target < committed:
                changed.setdefault(topic, {})[partition] = target
    if not changed:
        return {}
    specs = {
        TopicPartition(topic, partition): offset
        for topic, partitions in changed.items()
        for partition, offset in partitions.items()
    }
    with _admin(kafka) as admin:
        answers = admin.reset_group_offsets(group, specs)
        _check_set(group, {each: answer["error"] for each, answer in answers.items()})
    # What a topic keeps no longer can't be read again: the broker says where it begins now.
    reached: Offsets = {}
    for partition, answer in answers.items():
        reached.setdefault(partition.topic, {})[int(partition.partition)] = int(answer["offset"])
    return reached


def _check_set(group: str, errors: Mapping[TopicPartition, type[KafkaError]]) -> None:
    refused = {partition: error for partition, error in errors.items() if error is not NoError}
    if not refused:
        return
    told = ", ".join(f"{each.topic}/{each.partition}: {error.__name__}" for each, error in sorted(refused.items()))
    if not set(refused.values()) <= _IN_USE:
        error = next(error for error in refused.values() if error not in _IN_USE)
        raise error(f"the offsets of the group {group} can't be set back ({told})")
    raise Unavailable(
        f"the offsets of the group {group} can't be set back, a registry is in it still ({told})",
        code="GROUP_IN_USE",
        hint="stop every other registry; one that was killed leaves the group within 10 s",
    )


@contextmanager
def _admin(kafka: KafkaSettings) -> Iterator[KafkaAdminClient]:
    with closing(admin_client(kafka, client_id="tidegate-registry-admin")) as admin:
        try:
            yield admin
        except KafkaError as error:
            raise explain_blocking(kafka, error) from error
