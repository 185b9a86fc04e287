"""One whole stack at a time for the end-to-end tests."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from world import World, running_world

# One stack does for all of them: each tells of models that no other delivers.
SHARING = {"test_access", "test_guide", "test_outsiders", "test_story"}


class SharedWorld:
    """A stack that several files share, from when the first asks for it until another file comes."""

    def __init__(self) -> None:
        self.running: World | None = None
        self._close = ExitStack()

    def start(self, folder: Path, flights) -> World:
        """Return the running stack; start it, if it is not."""
        if self.running is None:
            self.running = self._close.enter_context(running_world(folder, flights))
        return self.running

    def end(self) -> None:
        """End it, if it runs."""
        self.running = None
        self._close.close()


@pytest.fixture(scope="session")
def flights():
    from tidegate.stack.demo.data import load_flights

    return load_flights()


@pytest.fixture(scope="session")
def shared_world():
    shared = SharedWorld()
    yield shared
    shared.end()


@pytest.fixture(scope="module", autouse=True)
def _one_stack_at_a_time(request: pytest.FixtureRequest, shared_world: SharedWorld) -> None:
    if request.path.stem not in SHARING:
        shared_world.end()


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, flights, shared_world):
    if request.path.stem in SHARING:
        yield shared_world.start(tmp_path_factory.mktemp("world"), flights)
        return
    with running_world(tmp_path_factory.mktemp("world"), flights) as running:
        yield running
