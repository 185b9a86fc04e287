"""The checker: sees everything, changes nothing."""

from __future__ import annotations

from tidegate.simulation.checks.decisions import DecisionChecks
from tidegate.simulation.checks.evidence import EvidenceChecks
from tidegate.simulation.checks.facts import Facts
from tidegate.simulation.checks.requests import RequestChecks
from tidegate.simulation.checks.versions import VersionChecks
from tidegate.simulation.world import World
from tidegate.v1.policy_pb2 import Policy


class Checker:
    """All invariants, by theme, around the same facts."""

    def __init__(self, world: World, policies: dict[str, Policy]) -> None:
        self.facts = Facts(world, policies)
        self.versions = VersionChecks(self.facts)
        self.requests = RequestChecks(self.facts)
        self.evidence = EvidenceChecks(self.facts, self.requests)
        self.decisions = DecisionChecks(self.facts)
