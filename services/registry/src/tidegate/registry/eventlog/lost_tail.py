"""A topic that lost its tail (a broker without power) has lost events that were told: they are told again."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select, update

from tidegate.contracts.topics import Topic
from tidegate.registry.catalog.tables import outbox


def told_events(connection: Connection, topic: Topic) -> set[str]:
    """Return the ids of the events that the topic should hold, as far as the outbox keeps them.

    Of a compacted topic these are the last of each key; compaction may have taken the others.
    """
    where = outbox.c.published & (outbox.c.topic == topic.name)
    rows = connection.execute(select(outbox.c.event_id, outbox.c.key).where(where).order_by(outbox.c.id))
    if not topic.compacted:
        return {str(row.event_id) for row in rows}
    return set({bytes(row.key): str(row.event_id) for row in rows}.values())


def tell_again(connection: Connection, event_ids: Iterable[str]) -> None:
    """Have the relay send these events again, in their old order."""
    for event_id in event_ids:
        connection.execute(update(outbox).where(outbox.c.event_id == event_id).values(published=False))
