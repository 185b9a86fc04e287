"""Who may write what: the topic table, and the grants that follow from it."""

import pytest

from tidegate.contracts.principals import PRINCIPALS, Operation, Resource, grants
from tidegate.contracts.topics import PRIVATE_TOPICS, TOPICS

ONLY_WRITER = {
    "training": "producers",
    "registry": "registry",
    "policies": "registry",
    "validation": "validator",
    "commands": "deployer",
    "rollouts": "deployer",
    "rollout-state": "deployer",
    "routes": "deployer",
    "predictions": "monitor",
    "outcomes": "applications",
    "monitoring": "monitor",
    "dead-letter": "all",
}
SERVICES = {"registry", "validator", "deployer", "monitor"}


def granted(operation, resource=Resource.TOPIC):
    """Return who has ``operation``, by name of the resource."""
    found = {}
    for grant in (one for principal in PRINCIPALS for one in grants(principal, prefix="p")):
        if (grant.operation, grant.resource) == (operation, resource):
            found.setdefault(grant.name, set()).add(grant.principal)
    return found


def test_the_writers_are_the_designs():
    assert {topic.name: topic.writer for topic in TOPICS} == ONLY_WRITER


def test_grants_let_only_the_writer_write():
    wanted = {f"p.{name}": SERVICES if writer == "all" else {writer} for name, writer in ONLY_WRITER.items()}
    assert granted(Operation.WRITE) == wanted | {"p.monitor-state": {"monitor"}}


def test_private_topics_belong_to_one_service_and_nobody_else_reads_them():
    readers = granted(Operation.READ)
    for topic in PRIVATE_TOPICS:
        assert readers[topic.full_name("p")] == {topic.writer}


def test_each_service_has_a_group_of_its_own():
    groups = granted(Operation.READ, Resource.GROUP)
    assert groups == {
        "p.registry": {"registry"},
        "p-validator": {"validator"},
        "p-deployer": {"deployer"},
        "p.monitor": {"monitor"},
    }


def test_only_the_deployer_writes_in_transactions():
    assert granted(Operation.WRITE, Resource.TRANSACTIONAL_ID) == {"p-deployer-": {"deployer"}}


def test_people_and_applications_decide_nothing():
    for name in ("operators", "applications", "producers"):
        principal = next(one for one in PRINCIPALS if one.name == name)
        assert {topic.name for topic in principal.writes()} <= {"training", "outcomes"}


@pytest.mark.parametrize("principal", PRINCIPALS, ids=lambda one: one.name)
def test_no_grant_reaches_another_environment(principal):
    for grant in grants(principal, prefix="staging"):
        assert grant.name.startswith(("staging.", "staging-"))
