"""One planted fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from tidegate.simulation.invariants import Invariant

Patch = tuple[Any, str, Any]
Patches = Callable[[], list[Patch]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """A planted fault.

    ``patches`` gives (object, attribute, replacement); ``found_by`` are the invariants that are about it, one of which
    must find it; ``seed`` is one where that happens (today), only to save time.
    """

    name: str
    promise: str
    patches: Patches
    found_by: tuple[Invariant, ...]
    seed: int = 0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Plant it for a while, in this process."""
        with ExitStack() as stack:
            for target, name, value in self.patches():
                stack.enter_context(patch.object(target, name, value))
            yield
