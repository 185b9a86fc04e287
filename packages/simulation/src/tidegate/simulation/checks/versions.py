"""Versions and their servers: numbers, artifacts, and who may start and stop what."""

from __future__ import annotations

from tidegate.registry.numbering import versioning
from tidegate.registry.numbering.inputs_json import input_from_json, to_json
from tidegate.registry.numbering.versioning import DecisionInput, Fingerprint, VersionNumberDecision
from tidegate.simulation.checks.facts import Facts
from tidegate.simulation.invariants import Invariant
from tidegate.simulation.plan import Quality
from tidegate.simulation.world import Broken


class VersionChecks:
    """Sees registrations, approvals and model servers."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._fingerprints: dict[tuple[str, Fingerprint], str] = {}

    def on_registered(
        self, model: str, version: str, given: DecisionInput, decision: VersionNumberDecision, quality: Quality
    ) -> None:
        """Check a new number."""
        facts = self._facts
        if (model, version) in facts.qualities:
            raise Broken(Invariant.NUMBERS_ARE_UNIQUE, f"{model}@{version} was given twice")
        twin = self._fingerprints.get((model, given.fingerprint))
        if twin is not None:
            raise Broken(Invariant.NUMBERS_ARE_UNIQUE, f"{model}@{version} is the same training as {twin}")
        again = versioning.decide(input_from_json(to_json(given)))
        if again != decision:
            raise Broken(Invariant.DECIDED_AGAIN, f"{version} would be {again.version} now")
        facts.qualities[model, version] = quality
        self._fingerprints[model, given.fingerprint] = version
        facts.world.count(f"change: {decision.change}")

    def on_approved(self, model: str, version: str) -> None:
        """Remember that a person consented."""
        self._facts.approved.add((model, version))

    def on_spec(self, server_id: str, runs: str, asked: str) -> None:
        """Check that a version's artifact is what it was."""
        if runs != asked:
            raise Broken(Invariant.ARTIFACTS_ARE_IMMUTABLE, f"{server_id} runs {runs}, asked for is {asked}")

    def on_start_asked(self, who: str, server_id: str) -> None:
        """Check that a committed state wants the server."""
        if not self._is_wanted(server_id):
            told = f"{who} starts {server_id}, which nothing wants"
            raise Broken(Invariant.ONLY_THE_COMMITTED_HAS_AN_EFFECT, told)

    def on_stop_asked(self, who: str, server_id: str) -> None:
        """Check that no committed state wants the server."""
        if self._is_wanted(server_id):
            told = f"{who} stops {server_id}, which is wanted"
            raise Broken(Invariant.ONLY_THE_COMMITTED_HAS_AN_EFFECT, told)

    def _is_wanted(self, server_id: str) -> bool:
        model, _, version = server_id.partition("@")
        state = self._facts.states.get(model)
        return state is not None and version in {str(number) for number in state.wanted_servers()}

    def on_ready(self, server_id: str) -> None:
        """Remember that a server came up."""
        self._facts.ever_ready.add(server_id)

    def on_died(self, server_id: str) -> None:
        """Remember that a server died by a fault."""
        self._facts.died_s[server_id] = self._facts.world.now_s

    def on_stopped(self, server_id: str, *, was_answering: bool) -> None:
        """Blame whoever stops a server that answers."""
        if was_answering:
            self._facts.stopped_s[server_id] = self._facts.world.now_s
