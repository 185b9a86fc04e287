"""Requests: what really happened to each, and whether its client found a server."""

from __future__ import annotations

from tidegate.monitor.batches import Key, is_success
from tidegate.simulation.checks.facts import AtProxy, Facts, Tally
from tidegate.simulation.invariants import Invariant
from tidegate.simulation.world import Broken


class RequestChecks:
    """Sees each request at its proxy."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.attempts: dict[str, tuple[str, int]] = {}
        """The arm that a request was assigned to, and what that arm answered, until it is counted."""
        self.count = 0
        self.is_lenient = True
        """Faults may still excuse a request."""
        self._answered_s: dict[tuple[str, str], float] = {}

    def on_attempt(self, key: Key, request_id: str, arm: str, status: int) -> None:
        """Remember what really happened to a request at the arm that it was assigned to."""
        self.attempts[request_id] = (arm, status)
        tally = self._facts.tallies.setdefault((key.model, key.epoch, key.revision, arm), Tally())
        tally.add(is_failure=not is_success(status))

    def on_answer(self, proxy: AtProxy, model: str, asked: str, answered_by: str, *, is_nobody: bool) -> None:
        """Check that a client's request found a server; one that died by itself excuses it, until it answers again."""
        self.count += 1
        facts = self._facts
        server_id = f"{model}@{answered_by}"
        if not proxy.is_beyond_lease:
            retired = [one for one in (asked, answered_by) if facts.is_retired(model, one, at_proxies=True)]
            if retired:
                raise Broken(Invariant.RETIRED_GETS_NOTHING, f"{proxy.name} sent a request to {model}@{retired[0]}")
        if not is_nobody:
            self._answered_s[proxy.name, server_id] = facts.world.now_s
            return
        died_s = facts.died_s.get(server_id, 0.0)
        last_s = max(self._answered_s.get((proxy.name, server_id), 0.0), facts.stopped_s.get(server_id, 0.0))
        if self.is_lenient and (died_s > last_s or proxy.is_beyond_lease):
            facts.world.count("request: failed, its only server had died or its proxy was beyond its lease")
            return
        raise Broken(
            Invariant.NO_REQUEST_FAILS,
            f"{proxy.name} sent a request for {model} (assigned to {asked}) to {server_id}, where nobody answers",
        )
