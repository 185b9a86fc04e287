"""One whole stack for the chaos tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def flights():
    from tidegate.stack.demo.data import load_flights

    return load_flights()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, flights):
    from world import running_world

    with running_world(tmp_path_factory.mktemp("world"), flights) as running:
        yield running
