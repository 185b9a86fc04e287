"""How far topics are reflected in the database, and the few facts that it keeps of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from tidegate.registry.store import SOURCE
from tidegate.registry.tables import facts, positions, sequences, versions

# The bus that the positions belong to.
BUS: Final = "bus"
# A backup that was restored, and whose input topics were not read again yet.
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
    of theirs look old.
    """
    before = read_fact(connection, BUS)
    if before == bus:
        return False
    write_fact(connection, BUS, bus)
    if not before:
        return False
    connection.execute(delete(sequences).where(sequences.c.source != SOURCE))
    connection.execute(delete(positions).where(positions.c.bus != bus))
    return True


def count_versions(connection: Connection) -> int:
    """Return how many versions there are."""
    return int(connection.execute(select(func.count()).select_from(versions)).scalar_one())
