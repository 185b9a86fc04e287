"""Telling a new bus what was stable, so that validator and deployer bring it back into service."""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, select

from tidegate.contracts.codec import EVENT_ID_NAMESPACE, derived_event_id
from tidegate.contracts.names import version_reference
from tidegate.registry.catalog.aliases import STABLE
from tidegate.registry.catalog.outbox import Cause, add_event, next_sequence
from tidegate.registry.catalog.policies import read_policy
from tidegate.registry.catalog.tables import aliases
from tidegate.registry.catalog.versions import read_version
from tidegate.registry.eventlog.positions import ANNOUNCE, read_fact, write_fact
from tidegate.v1.events_pb2 import PolicyApplied


def announce_stable(connection: Connection, bus: str) -> list[str]:
    """Put the policy and the stable version of each model into the outbox; return the references of the versions.

    Only if a restore asked for it, and only on another bus than that of the backup: a bus that knows the versions
    already has the validator's and the deployer's word on them. The version is announced as the newest registration,
    so that it is validated again where it now runs, and delivered as the first version that this bus has.
    """
    before = read_fact(connection, ANNOUNCE)
    write_fact(connection, ANNOUNCE, "")
    if not before or before == bus:
        return []
    return [_announce(connection, model, bus) for model in list_stable(connection)]


def list_stable(connection: Connection) -> list[str]:
    """Return the models that have a stable version, by name."""
    models = connection.execute(select(aliases.c.model).where(aliases.c.alias == STABLE).order_by(aliases.c.model))
    return [str(model) for model in models.scalars().all()]


def _announce(connection: Connection, model: str, bus: str) -> str:
    cause_id = str(uuid.uuid5(EVENT_ID_NAMESPACE, f"announce|{bus}|{model}"))
    cause = Cause(id=cause_id, correlation_id=cause_id, actor="restore")
    policy, revision = read_policy(connection, model)
    if revision:
        applied = PolicyApplied(model=model, policy_revision=revision, policy=policy, actor=cause.actor)
        event_id = derived_event_id("PolicyApplied", cause_id)
        add_event(connection, applied, cause=cause, event_id=event_id, sequence=next_sequence(connection, model))
    registered = read_version(connection, model, STABLE).registered
    registered.sequence = next_sequence(connection, model)
    event_id = derived_event_id("ModelRegistered", cause_id)
    add_event(connection, registered, cause=cause, event_id=event_id, sequence=registered.sequence)
    return version_reference(model, registered.version)
