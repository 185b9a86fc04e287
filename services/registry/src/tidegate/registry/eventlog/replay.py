"""What an event of the registry's own topics says about its rows: the way back from the log to the database.

Every event of a model carries the model's sequence, counted up in the transaction that wrote the rows. So an event is
reflected in the database exactly if its sequence is not above the model's counter; replaying twice changes nothing.
Policies live on a compacted topic, where their own revision says the same.
"""

from __future__ import annotations

import json
from enum import StrEnum

from sqlalchemy import Connection, delete, insert, select, update

from tidegate.contracts.codec import Event
from tidegate.contracts.names import version_reference
from tidegate.contracts.topics import POLICIES
from tidegate.core.errors import FailedPrecondition, NotFound
from tidegate.registry.catalog.handled import mark_consumed, was_consumed
from tidegate.registry.catalog.outbox import SOURCE, advance_sequence, cause_of
from tidegate.registry.catalog.policies import read_policy
from tidegate.registry.catalog.tables import aliases, outbox, policies, sequences
from tidegate.registry.catalog.versions import insert_version, read_version
from tidegate.registry.numbering.versioning import Verdict
from tidegate.v1.events_pb2 import AliasMoved, ModelRegistered, PolicyApplied
from tidegate.v1.rollout_events_pb2 import RolloutStep
from tidegate.v1.values_pb2 import Version


class Replayed(StrEnum):
    """What an event changed."""

    KNOWN = "known"
    APPLIED = "applied"
    FOREIGN = "foreign"


def replay(connection: Connection, event: Event) -> Replayed:
    """Make the database reflect one event of the topics ``registry`` and ``policies``, in the order of the topic.

    Raises:
        FailedPrecondition: The bus and the database tell different stories (code BUS_DIVERGES).

    """
    if event.source != SOURCE:
        return Replayed.FOREIGN
    message = event.message
    # It is on the topic: the relay need not send it again.
    _published(connection, event.id)
    if isinstance(message, PolicyApplied):
        known = not _apply_policy(connection, event, message)
    else:
        known = event.sequence <= _counter(connection, event.subject)
        if isinstance(message, ModelRegistered):
            _check_same(connection, message, known=known)
        if not known:
            _apply(connection, event)
    _count_to(connection, event.subject, event.sequence)
    if known:
        return Replayed.KNOWN
    if event.causation_id and not was_consumed(connection, event.causation_id):
        mark_consumed(connection, event.causation_id)
    return Replayed.APPLIED


def count_handled_step(connection: Connection, event: Event) -> None:
    """Count a rollout's step that an alias's move names as its cause, so that no older step is followed again.

    Replayed moves bring back where the aliases are, but not the steps that changed nothing: followed a second time,
    from where the aliases are now, those would move them.
    """
    if isinstance(event.message, RolloutStep) and event.sequence and was_consumed(connection, cause_of(event).id):
        advance_sequence(connection, event.message.model, event.source, event.sequence)


def _apply(connection: Connection, event: Event) -> None:
    match event.message:
        case ModelRegistered() as registered:
            _register(connection, event, registered)
        case AliasMoved() as moved:
            _move_alias(connection, event, moved)
        case _:
            # Rejections and duplicates leave no rows but that their cause was answered.
            pass


def _register(connection: Connection, event: Event, registered: ModelRegistered) -> None:
    if _digest(connection, registered.model, registered.version):
        # Told a second time, to a bus that did not know it.
        return
    baseline_id = None
    if registered.HasField("baseline"):
        baseline_id = read_version(connection, registered.model, registered.baseline).id
    numbers = json.loads(registered.decision.numbers_json)
    insert_version(
        connection, registered, verdict=Verdict(numbers["verdict"]), baseline_id=baseline_id, create_time=event.time
    )


def _move_alias(connection: Connection, event: Event, moved: AliasMoved) -> None:
    connection.execute(delete(aliases).where(aliases.c.model == moved.model, aliases.c.alias == moved.alias))
    if moved.HasField("version"):
        row = {"model": moved.model, "alias": moved.alias, "etag": event.id, "rollout_id": moved.rollout_id}
        number = {"major": moved.version.major, "minor": moved.version.minor, "pipeline": moved.version.pipeline}
        connection.execute(insert(aliases).values(**row, **number, update_time=event.time))


def _apply_policy(connection: Connection, event: Event, applied: PolicyApplied) -> bool:
    # Compaction keeps the newest policy only: older ones that wait in the outbox must not come after it.
    waiting = (outbox.c.topic == POLICIES.name) & (outbox.c.key == applied.model.encode())
    older = connection.execute(select(outbox.c.id, outbox.c.value).where(waiting, outbox.c.published.is_(False)))
    for each in older.all():
        if PolicyApplied.FromString(bytes(each.value)).policy_revision <= applied.policy_revision:
            connection.execute(update(outbox).where(outbox.c.id == each.id).values(published=True))
    _, revision = read_policy(connection, applied.model)
    if applied.policy_revision <= revision:
        return False
    data = applied.policy.SerializeToString(deterministic=True)
    row = {"model": applied.model, "revision": applied.policy_revision, "policy": data, "actor": applied.actor}
    connection.execute(insert(policies).values(**row, create_time=event.time))
    return True


def _check_same(connection: Connection, told: ModelRegistered, *, known: bool) -> None:
    """Refuse two versions under one number, which no restore may ever make."""
    reference = version_reference(told.model, told.version)
    held = _digest(connection, told.model, told.version)
    if held == told.artifact.digest or (not held and not known):
        return
    raise FailedPrecondition(
        f"the topic tells of {reference} with artifact {told.artifact.digest}, the database "
        f"{'has ' + held if held else 'counts past it, but has no such version'}",
        code="BUS_DIVERGES",
        hint="this database does not belong to this bus: restore a backup that was made from it, or use an empty bus",
    )


def _digest(connection: Connection, model: str, version: Version) -> str:
    try:
        return read_version(connection, model, version).registered.artifact.digest
    except NotFound:
        return ""


def _published(connection: Connection, event_id: str) -> None:
    where = (outbox.c.event_id == event_id) & outbox.c.published.is_(False)
    connection.execute(update(outbox).where(where).values(published=True))


def _counter(connection: Connection, model: str) -> int:
    where = (sequences.c.model == model) & (sequences.c.source == SOURCE)
    return int(connection.execute(select(sequences.c.value).where(where)).scalar_one_or_none() or 0)


def _count_to(connection: Connection, model: str, sequence: int) -> None:
    last = _counter(connection, model)
    if sequence <= last:
        return
    where = (sequences.c.model == model) & (sequences.c.source == SOURCE)
    if connection.execute(update(sequences).where(where).values(value=sequence)).rowcount == 0:
        connection.execute(insert(sequences).values(model=model, source=SOURCE, value=sequence))
