"""Announced: version, lineage, answer and event in one transaction, if the line is still as it was decided from."""

from __future__ import annotations

import structlog
from sqlalchemy import Connection

from tidegate.contracts.codec import derived_event_id
from tidegate.contracts.names import version_reference
from tidegate.core.errors import Conflict
from tidegate.registry.catalog.handled import mark_consumed, was_consumed
from tidegate.registry.catalog.outbox import Cause, add_event, next_sequence
from tidegate.registry.catalog.versions import StoredVersion, insert_version, read_version_by_id
from tidegate.registry.metrics import REGISTRATIONS
from tidegate.registry.registration.answers import Registration, add_duplicate, known_answer, remember_answer
from tidegate.registry.registration.comparing import line_of
from tidegate.registry.registration.storing import Stored
from tidegate.registry.store import Store
from tidegate.v1.events_pb2 import TrainingCompleted

log = structlog.get_logger(__name__)


async def commit(store: Store, stored: Stored, cause: Cause) -> Registration:
    """Commit the version with its event; one of this request that was committed meanwhile is the answer.

    Raises:
        Conflict: The line moved since it was decided from (code LINE_MOVED), or a row exists (code ROW_EXISTS).
        Unavailable: The database is away.

    """
    decided, registered = stored.decided, stored.registered
    result = await store.write(lambda connection: _commit(connection, stored, cause))
    REGISTRATIONS.labels("DUPLICATE" if result.duplicate else decided.decision.change.name).inc()
    reference = version_reference(registered.model, result.version.registered.version)
    log.info("version registered", version=reference, rule=decided.decision.rule, reason=registered.reason)
    return result


def _commit(connection: Connection, stored: Stored, cause: Cause) -> Registration:
    decided = stored.decided
    training = decided.prepared.training
    known = known_answer(connection, training)
    if known is not None:
        return known
    if line_of(connection, decided.prepared) != decided.line:
        raise Conflict(f"the line of {training.model} moved meanwhile", code="LINE_MOVED")
    remember_answer(connection, training, decided.decision.version, duplicate=decided.twin is not None)
    if decided.twin is not None:
        return _commit_duplicate(connection, training, decided.line.twin_id, cause)
    return Registration(version=_insert(connection, stored, cause), duplicate=False)


def _commit_duplicate(connection: Connection, training: TrainingCompleted, twin_id: int, cause: Cause) -> Registration:
    # A cause whose version was learnt from the topic is answered by that version.
    if not was_consumed(connection, cause.id):
        mark_consumed(connection, cause.id)
    twin = read_version_by_id(connection, twin_id)
    add_duplicate(connection, training, twin, cause)
    return Registration(version=twin, duplicate=True)


def _insert(connection: Connection, stored: Stored, cause: Cause) -> StoredVersion:
    decided, registered = stored.decided, stored.registered
    mark_consumed(connection, cause.id)
    registered.sequence = next_sequence(connection, registered.model)
    row_id = insert_version(
        connection,
        registered,
        verdict=decided.decision.numbers.verdict,
        baseline_id=decided.line.baseline_id or None,
    )
    event_id = derived_event_id("ModelRegistered", cause.id)
    add_event(connection, registered, cause=cause, event_id=event_id, sequence=registered.sequence)
    return read_version_by_id(connection, row_id)
