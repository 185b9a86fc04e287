"""Policies in SQL: each model has revisions that only rise; the newest is in force."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from tidegate.contracts.codec import derived_event_id
from tidegate.core.clock import utc_now
from tidegate.core.policy import default_policy
from tidegate.registry.catalog.outbox import Cause, add_event, next_sequence
from tidegate.registry.catalog.tables import policies
from tidegate.v1.events_pb2 import PolicyApplied
from tidegate.v1.policy_pb2 import Policy


def read_policy(connection: Connection, model: str) -> tuple[Policy, int]:
    """Return the policy in force and its revision; the built-in default has revision 0."""
    row = connection.execute(
        select(policies.c.policy, policies.c.revision)
        .where(policies.c.model == model)
        .order_by(policies.c.revision.desc())
        .limit(1)
    ).first()
    return (default_policy(model), 0) if row is None else (Policy.FromString(row.policy), int(row.revision))


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
