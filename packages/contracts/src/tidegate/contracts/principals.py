"""Who may do what on the event bus: one principal a service, and people and programs outside by what they are.

A topic's only writer stands in the topic table; what a principal reads, and the consumer group that it does it in,
stand here. From both follow all grants, so that a broker with security on enforces the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tidegate.contracts.topics import (
    COMMANDS,
    DEFAULT_PREFIX,
    MONITOR_STATE,
    MONITORING,
    OUTCOMES,
    POLICIES,
    PREDICTIONS,
    PRIVATE_TOPICS,
    REGISTRY,
    ROLLOUT_STATE,
    ROLLOUTS,
    ROUTES,
    TOPICS,
    TRAINING,
    VALIDATION,
    WRITTEN_BY_ALL,
    Topic,
)

# What a person or a producer follows: everything but packed requests and snapshots.
STORY_TOPICS: Final = (TRAINING, REGISTRY, POLICIES, VALIDATION, COMMANDS, ROLLOUTS, MONITORING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """One user of the broker.

    ``group`` is the end of its consumer group's name, after the prefix; ``is_transactional`` says that its
    transactional ids begin with the group's name and a dash; ``is_service`` that it sets messages aside.
    """

    name: str
    reads: tuple[Topic, ...] = ()
    group: str = ""
    is_transactional: bool = False
    is_service: bool = False

    def consumer_group(self, prefix: str = DEFAULT_PREFIX) -> str:
        """Return the full name of its consumer group."""
        return prefix + self.group

    def writes(self) -> tuple[Topic, ...]:
        """Return the topics that it may write."""
        return tuple(
            topic
            for topic in (*TOPICS, *PRIVATE_TOPICS)
            if topic.writer == self.name or (topic.writer == WRITTEN_BY_ALL and self.is_service)
        )


REGISTRY_PRINCIPAL: Final = Principal(
    # Its own topics, too: it catches up with them.
    name="registry",
    reads=(TRAINING, VALIDATION, ROLLOUTS, REGISTRY, POLICIES),
    group=".registry",
    is_service=True,
)
VALIDATOR_PRINCIPAL: Final = Principal(
    name="validator", reads=(REGISTRY, VALIDATION), group="-validator", is_service=True
)
DEPLOYER_PRINCIPAL: Final = Principal(
    name="deployer",
    reads=(REGISTRY, POLICIES, VALIDATION, MONITORING, COMMANDS, ROLLOUTS, ROLLOUT_STATE, ROUTES),
    group="-deployer",
    is_transactional=True,
    is_service=True,
)
MONITOR_PRINCIPAL: Final = Principal(
    name="monitor", reads=(PREDICTIONS, OUTCOMES, ROLLOUTS, POLICIES, MONITOR_STATE), group=".monitor", is_service=True
)
# Training pipelines; they follow what becomes of their models.
PRODUCERS: Final = Principal(name="producers", reads=STORY_TOPICS)
# What calls the gateway and reports outcomes.
APPLICATIONS: Final = Principal(name="applications")
# People at the command line: they read; their commands go to the deployer by gRPC.
OPERATORS: Final = Principal(name="operators", reads=STORY_TOPICS)

PRINCIPALS: Final = (
    REGISTRY_PRINCIPAL,
    VALIDATOR_PRINCIPAL,
    DEPLOYER_PRINCIPAL,
    MONITOR_PRINCIPAL,
    PRODUCERS,
    APPLICATIONS,
    OPERATORS,
)


class Resource(Enum):
    """What a grant is about, by Kafka's names."""

    TOPIC = "TOPIC"
    GROUP = "GROUP"
    TRANSACTIONAL_ID = "TRANSACTIONAL_ID"


class Operation(Enum):
    """What a grant allows, by Kafka's names; reading and writing include describing."""

    READ = "READ"
    WRITE = "WRITE"
    DESCRIBE = "DESCRIBE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """``principal`` may do ``operation`` on the resource ``name``, or on all whose names begin so."""

    principal: str
    operation: Operation
    resource: Resource
    name: str
    is_prefix: bool = False


def grants(principal: Principal, *, prefix: str = DEFAULT_PREFIX) -> frozenset[Grant]:
    """Return all that ``principal`` may do in the environment ``prefix``; everything else is denied.

    An idempotent producer needs no grant of its own: since Kafka 2.8 the right to write any topic includes it.
    """
    return frozenset(_grants(principal, prefix))


def _grants(principal: Principal, prefix: str) -> Iterator[Grant]:
    name = principal.name
    # Names and partitions are no secret among us, and a service says better what is missing when it sees what is there.
    yield Grant(
        principal=name, operation=Operation.DESCRIBE, resource=Resource.TOPIC, name=f"{prefix}.", is_prefix=True
    )
    for operation, topics in ((Operation.READ, principal.reads), (Operation.WRITE, principal.writes())):
        for topic in topics:
            yield Grant(principal=name, operation=operation, resource=Resource.TOPIC, name=topic.full_name(prefix))
    if principal.group:
        group = principal.consumer_group(prefix)
        yield Grant(principal=name, operation=Operation.READ, resource=Resource.GROUP, name=group)
        if principal.is_transactional:
            yield Grant(
                principal=name,
                operation=Operation.WRITE,
                resource=Resource.TRANSACTIONAL_ID,
                name=f"{group}-",
                is_prefix=True,
            )
