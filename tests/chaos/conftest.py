"""The stack that the fault tests share: a first version serves, and clients ask it without a pause."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def flights():
    from tidegate.stack.demo.data import load_flights

    return load_flights()


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory, flights):
    from faults.arena import running_arena

    with running_arena(tmp_path_factory.mktemp("arena"), flights) as running:
        yield running
