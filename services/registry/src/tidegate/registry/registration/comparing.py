"""Compared: the line as it is now, and what the evaluations of candidate and baseline say."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import Connection

from tidegate.core.errors import Conflict, NotFound
from tidegate.registry.catalog.versions import LineState, StoredVersion, read_line, read_version_by_id
from tidegate.registry.intake.artifacts import ArtifactIntake
from tidegate.registry.intake.rejection import Rejected, rejected
from tidegate.registry.numbering.evaluation import compare
from tidegate.registry.numbering.versioning import Comparison
from tidegate.registry.registration.fetching import Prepared, read_guarded
from tidegate.registry.store import Store
from tidegate.v1.events_pb2 import ModelRegistered, TrainingCompleted

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """What a number is decided from; ``twin`` is the version that the registration would be again."""

    prepared: Prepared
    line: LineState
    baseline: StoredVersion | None
    twin: StoredVersion | None
    comparison: Comparison


async def compare_with_line(store: Store, intake: ArtifactIntake, prepared: Prepared, folder: Path) -> Compared:
    """Read the line, and compare with its baseline.

    Raises:
        Rejected: There is no such line.
        Conflict: The policy changed since it was checked (code POLICY_MOVED).
        Unavailable: Database or object store are away.

    """
    model = prepared.training.model

    def load(connection: Connection) -> tuple[LineState, StoredVersion | None, StoredVersion | None]:
        line = line_of(connection, prepared)
        baseline = read_version_by_id(connection, line.baseline_id) if line.baseline_id else None
        return line, baseline, read_version_by_id(connection, line.twin_id) if line.twin_id else None

    line, baseline, twin = await store.read(load)
    if line.policy_revision != prepared.policy_revision:
        raise Conflict(f"the policy of {model} changed meanwhile", code="POLICY_MOVED")
    comparison = Comparison(unknown_because="there is nothing to compare with")
    if baseline is not None and twin is None:
        comparison = await _compare(intake, prepared, baseline, folder)
    return Compared(prepared=prepared, line=line, baseline=baseline, twin=twin, comparison=comparison)


def line_of(connection: Connection, prepared: Prepared) -> LineState:
    """Return the line that the registration belongs to.

    Raises:
        Rejected: There is no such line.

    """
    training = prepared.training
    try:
        return read_line(connection, training.model, major_line=training.major_line, fingerprint=prepared.fingerprint)
    except NotFound as error:
        raise rejected(error.code, str(error), error.field) from None


async def _compare(intake: ArtifactIntake, prepared: Prepared, baseline: StoredVersion, folder: Path) -> Comparison:
    """Pair the evaluations of candidate and baseline, if they are of the same examples."""
    metric = prepared.policy.registration.gate_metric.name
    mine = _dataset_digest(prepared.training, metric)
    theirs = _dataset_digest(baseline.registered, metric)
    if not mine or mine != theirs:
        return Comparison(unknown_because=f"{metric} was not measured on the same evaluation data")
    if prepared.evaluation is None or not baseline.registered.evaluation_uri:
        return Comparison(unknown_because="there is no evaluation file on both sides")
    uri = baseline.registered.evaluation_uri
    try:
        fetched = await intake.fetch_file(uri, folder / "baseline", field="evaluation_uri")
    except Rejected as error:
        # It is ours to keep, not the producer's: what is lost is unknown, and registrations go on.
        log.warning("the baseline's evaluation is lost", uri=uri, error=str(error))
        return Comparison(unknown_because="the evaluation of the baseline is lost")
    other = await read_guarded(fetched, prepared.policy)
    return await asyncio.to_thread(compare, prepared.evaluation, other, metric=metric)


def _dataset_digest(measured: TrainingCompleted | ModelRegistered, metric: str) -> str:
    return next((one.dataset_digest for one in measured.metrics if one.name == metric and not one.slice), "")
