"""Policies in SQL: each model has revisions that only rise; the newest is in force."""

from __future__ import annotations

from sqlalchemy import Connection, insert

from tidegate.contracts.codec import derived_event_id
from tidegate.core.clock import utc_now
from tidegate.core.policy import resolve_policy, validate_policy
from tidegate.registry.catalog.tables import policies
from tidegate.registry.catalog.versions import read_policy
from tidegate.registry.intake.rejection import Rejected
from tidegate.registry.store import Cause, add_event, next_sequence
from tidegate.v1.events_pb2 import PolicyApplied
from tidegate.v1.policy_pb2 import Policy


def checked(policy: Policy) -> Policy:
    """Return ``policy`` with all defaults.

    Raises:
        Rejected: It has faults; each names its field.

    """
    resolved = resolve_policy(policy)
    faults = validate_policy(resolved)
    if faults:
        raise Rejected(faults)
    return resolved


def apply_policy(connection: Connection, policy: Policy, cause: Cause) -> int:
    """Store a resolved policy, tell, and return its revision; an equal one keeps the revision that it has."""
    current, revision = read_policy(connection, policy.model)
    if revision and current == policy:
        return revision
    data = policy.SerializeToString(deterministic=True)
    row = {"model": policy.model, "revision": revision + 1, "policy": data, "actor": cause.actor}
    connection.execute(insert(policies).values(**row, create_time=utc_now()))
    applied = PolicyApplied(model=policy.model, policy_revision=revision + 1, policy=policy, actor=cause.actor)
    event_id = derived_event_id("PolicyApplied", cause.id)
    add_event(connection, applied, cause=cause, event_id=event_id, sequence=next_sequence(connection, policy.model))
    return revision + 1
