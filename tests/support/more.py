"""How often a test repeats what it shows: seldom by default, often in `make test-more`, which looks for rare faults."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

VARIABLE = "TIDEGATE_TEST_MORE"
IS_WANTED = os.environ.get(VARIABLE, "") not in {"", "0"}
EXAMPLES, EXAMPLES_MORE = 100, 1000


def repeats(few: int, *, many: int) -> int:
    """Return ``many`` where more is wanted, else ``few``."""
    return many if IS_WANTED else few


def set_up_hypothesis() -> None:
    """Try so many examples of each property; judge none by its time, since the machine may be busy with others."""
    settings.register_profile(
        "tidegate",
        max_examples=repeats(EXAMPLES, many=EXAMPLES_MORE),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("tidegate")
