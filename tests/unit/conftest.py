"""Unit tests stay inside the process: no sockets."""

from __future__ import annotations

import socket

import pytest

_ALLOWED_FAMILIES = {socket.AF_UNIX}


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse sockets to other processes; an event loop's own pair (AF_UNIX) is fine."""
    make_socket = socket.socket.__init__

    def refuse(self, family=-1, *args, **kwargs):
        # Descriptors handed over (fileno=...) come from a socketpair.
        if family in _ALLOWED_FAMILIES or kwargs.get("fileno") is not None:
            return make_socket(self, family, *args, **kwargs)
        pytest.fail("a unit test opened a network socket: move it to tests/integration")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
