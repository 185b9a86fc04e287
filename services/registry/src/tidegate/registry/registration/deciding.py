"""Decided: the number, by the rules of ``numbering/versioning.py``."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.registry.catalog.versions import LineState, StoredVersion
from tidegate.registry.catalog.wire import gate_from_wire, signature_from_wire
from tidegate.registry.numbering.versioning import DecisionInput, VersionNumberDecision, decide
from tidegate.registry.registration.comparing import Compared
from tidegate.registry.registration.fetching import Prepared


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """What was decided, and from what; with a ``twin`` it is a duplicate."""

    prepared: Prepared
    line: LineState
    twin: StoredVersion | None
    given: DecisionInput
    decision: VersionNumberDecision


def decide_number(compared: Compared) -> Decided:
    """Decide from what was compared; it may be decided again from a line that moved."""
    prepared, line = compared.prepared, compared.line
    given = DecisionInput(
        fingerprint=prepared.fingerprint,
        signature=signature_from_wire(prepared.training.signature),
        gate=gate_from_wire(prepared.policy.registration.gate_metric),
        comparison=compared.comparison,
        newest_major=line.newest_major,
        line_top=line.line_top,
        baseline=compared.baseline.contender if compared.baseline else None,
        twin=compared.twin.contender if compared.twin else None,
    )
    return Decided(prepared=prepared, line=line, twin=compared.twin, given=given, decision=decide(given))
