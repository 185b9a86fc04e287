"""A deployer whose decision about the model ``poison`` fails as nobody thought of, for ``test_deployer_poison.py``."""

from __future__ import annotations

from tidegate.deployer import __main__, agents
from tidegate.deployer import events as core
from tidegate.deployer.state import Decision, ModelState

right = agents.decide


def wrong(state: ModelState, event: core.Event) -> Decision:
    """Decide, or fail."""
    if state.model == "poison":
        raise ZeroDivisionError("a decision that nobody thought of")
    return right(state, event)


agents.decide = wrong
__main__.main()
