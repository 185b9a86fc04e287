"""Which tests keep together, and in which order they start, where several workers run them side by side (pytest-xdist).

A worker has brokers, folders and ports of its own, so that a file's tests may run next to any other's. Whole stacks run on one
worker after the other: a stack wants two cores, or its deadlines say more of the machine than of the code. Files of long tests
that share nothing are taken apart.
"""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from tidegate.stack import ports

CORES_OF_TWO_STACKS = 4
# Each group runs on one worker: so many whole stacks run at once as there are names.
STACKS = {
    "stacks-1": ("chaos/",),
    "stacks-2": ("e2e/", "integration/stack/test_stack_supervised", "integration/stack/test_stack_model_servers"),
}
if (os.cpu_count() or 1) < CORES_OF_TWO_STACKS:
    STACKS = {"stacks": tuple(itertools.chain(*STACKS.values()))}
# What they share takes long to make: trained models, a broker with users.
TOGETHER = ("unit/demo/", "integration/kafka_security/", "integration/client/")
# Long ones that share nothing but what each worker has. They start early, for one that starts last is waited for by itself.
APART = (
    "integration/validator/",
    "integration/registry/test_registry_backup",
    "integration/registry/test_registry_service",
    "integration/registry/test_registry_bus",
    "simulation/test_simulation_mutants",
    "integration/monitor/",
    "integration/core/test_core_poison",
    "integration/modelhost/test_modelhost_servers",
    "integration/modelhost/test_modelhost_adoption",
)
# The stack of its own is gone before the one that the others share starts.
OWN = ("chaos/test_storage",)
# Those that share one stack, one after the other (e2e/conftest.py).
SHARING = ("e2e/test_access", "e2e/test_guide", "e2e/test_outsiders", "e2e/test_story")
ORDER = (*OWN, *SHARING, *itertools.chain(*STACKS.values()), "simulation/test_simulation_seeds", *APART)

# Below the ports that the kernel gives to connections, so that none of them is in the way.
FIRST_PORT = 10_000
PORTS_EACH = 1_400
WORKERS_MAX = 16


class Groups(LoadScopeScheduling):
    """Hands each group to one worker, in the order in which the tests were arranged.

    (The mark ``xdist_group`` would say the same, but xdist 3.8 does not see it under pytest 9.2.)
    """

    def __init__(self, config: pytest.Config, log: object) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """Return the name of the group that a test runs with."""
    file = nodeid.partition("::")[0]
    path = file.removeprefix("tests/")
    for name, places in STACKS.items():
        if path.startswith(places):
            return name
    if path.startswith(APART):
        return nodeid
    return next((place for place in TOGETHER if path.startswith(place)), file)


def arranged(items: list[pytest.Item], folder: Path) -> list[pytest.Item]:
    """Return the tests below ``folder`` in the order in which they start: first those that take longest."""

    def rank(item: pytest.Item) -> int:
        path = Path(os.path.relpath(item.path, folder)).as_posix()
        return next((place for place, name in enumerate(ORDER) if path.startswith(name)), len(ORDER))

    return sorted(items, key=rank)


def keep_to_own_ports(worker: str) -> None:
    """Have this process choose free ports that no other worker chooses.

    Else two workers could both choose a port before either has started the server that will listen on it.
    """
    first = FIRST_PORT + int(worker.removeprefix("gw")) % WORKERS_MAX * PORTS_EACH
    own = [*range(first, first + PORTS_EACH)]
    # Not always the same ones: somebody else on this machine may run the tests, too.
    begin = random.randrange(PORTS_EACH)
    turn = itertools.cycle(own[begin:] + own[:begin])

    def free_ports(count: int) -> tuple[int, ...]:
        return tuple(itertools.islice(filter(ports.port_is_free, turn), count))

    ports.free_ports = free_ports
