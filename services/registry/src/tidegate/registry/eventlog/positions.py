"""How far topics are reflected in the database, and the few facts that it keeps of itself."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from tidegate.contracts.codec import EVENT_ID_NAMESPACE
from tidegate.registry.catalog.outbox import SOURCE
from tidegate.registry.catalog.tables import consumed, facts, outbox, positions, sequences, versions

# The bus that the positions belong to.
BUS: Final = "bus"
# Why the input topics must be read again: the backup that was restored, or that the database was behind its topics.
RESTORED: Final = "restored"
# The stable versions shall be told to a bus that does not know them; the value is the bus of the backup.
ANNOUNCE: Final = "announce"


def read_positions(connection: Connection, bus: str, topic: str) -> dict[int, int]:
    """Return the first offset of each partition that is not reflected yet; a partition that is absent begins at 0."""
    rows = connection.execute(
        select(positions.c.partition, positions.c.next_offset).where(positions.c.bus == bus, positions.c.topic == topic)
    )
    return {int(row.partition): int(row.next_offset) for row in rows}


def write_positions(connection: Connection, bus: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Remember the first offset of each partition that is not reflected yet."""
    for partition, offset in sorted(offsets.items()):
        where = (positions.c.bus == bus) & (positions.c.topic == topic) & (positions.c.partition == partition)
        if connection.execute(update(positions).where(where).values(next_offset=offset)).rowcount == 0:
            row = {"bus": bus, "topic": topic, "partition": partition, "next_offset": offset}
            connection.execute(insert(positions).values(**row))


def read_fact(connection: Connection, name: str) -> str:
    """Return what is known under ``name``; empty = nothing."""
    found = connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar_one_or_none()
    return str(found or "")


def write_fact(connection: Connection, name: str, value: str) -> None:
    """Know ``value`` under ``name``; empty = forget it."""
    connection.execute(delete(facts).where(facts.c.name == name))
    if value:
        connection.execute(insert(facts).values(name=name, value=value))


def join_bus(connection: Connection, bus: str) -> bool:
    """Note that this database belongs to the cluster ``bus`` now; return whether it belonged to another one before.

    On another cluster the other services begin to count anew: what is known of their sequences would make every word
    of theirs look old. So do offsets, which name the events that bring no id of their own: one from here would look as
    if it had been handled there.
    """
    before = read_fact(connection, BUS)
    if before == bus:
        return False
    write_fact(connection, BUS, bus)
    if not before:
        return False
    connection.execute(delete(sequences).where(sequences.c.source != SOURCE))
    connection.execute(delete(positions).where(positions.c.bus != bus))
    connection.execute(delete(consumed))
    # Ids of our events follow from their causes: what the old bus was told would stand in the way.
    connection.execute(delete(outbox).where(outbox.c.published))
    _rename_waiting(connection, bus)
    return True


def _rename_waiting(connection: Connection, bus: str) -> None:
    """Give what waits for its first bus ids that no cause on this one can have."""
    rows = connection.execute(select(outbox.c.id, outbox.c.event_id, outbox.c.headers)).all()
    for row in rows:
        event_id = str(uuid.uuid5(EVENT_ID_NAMESPACE, f"{bus}|{row.event_id}"))
        headers = [[name, event_id if name == "ce_id" else text] for name, text in json.loads(row.headers)]
        values = {"event_id": event_id, "headers": json.dumps(headers)}
        connection.execute(update(outbox).where(outbox.c.id == row.id).values(**values))


def count_versions(connection: Connection) -> int:
    """Return how many versions there are."""
    return int(connection.execute(select(func.count()).select_from(versions)).scalar_one())
