"""Who gets the next free server of a full model host: what has traffic first, then who has waited longest."""

from __future__ import annotations

from collections.abc import Mapping


class PlaceQueue:
    """The servers that the host had no room for, in the order in which they asked."""

    def __init__(self) -> None:
        # A dict keeps the order; nothing is worth keeping beside it.
        self._waiting: dict[str, None] = {}

    def in_turn(self, missing: Mapping[str, bool]) -> list[str]:
        """Return the servers that do not run, in the order to start them; ``missing`` says which have traffic.

        Whoever is not missing any more waits no more.
        """
        self._waiting = {server_id: None for server_id in self._waiting if server_id in missing}
        turn = {server_id: place for place, server_id in enumerate(self._waiting)}
        return sorted(missing, key=lambda server_id: (not missing[server_id], turn.get(server_id, len(turn))))

    def refused(self, server_id: str) -> None:
        """Remember that there was no room."""
        self._waiting.setdefault(server_id)

    def started(self, server_id: str) -> None:
        """Forget one that has got its place."""
        self._waiting.pop(server_id, None)

    def __contains__(self, server_id: str) -> bool:
        """Say whether it waits."""
        return server_id in self._waiting
