"""The state file: which servers the host has, so that the next host finds them again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tidegate.core.errors import InvalidInput
from tidegate.modelhost.lifecycle import Process, Reason, Server, Spec, State

FORMAT: Final = 1
_TIMES: Final = ("asked_time", "launch_time", "ready_time", "resume_time")


class StateFile:
    """Servers in one JSON file, replaced as a whole: a crash leaves the old one or the new one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, servers: Iterable[Server]) -> None:
        """Replace the file."""
        text = json.dumps({"format": FORMAT, "servers": [to_json(server) for server in servers]}, indent=1)
        partial = self._path.with_name(self._path.name + ".partial")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(self._path)

    def load(self) -> list[Server]:
        """Return the servers of the file; none if there is no file.

        Raises:
            InvalidInput: The file was not written by this program (code STATE_FILE_INVALID).

        """
        try:
            document = json.loads(self._path.read_text())
            return _servers(document)
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"{self._path} is no state file of the model host: {error}",
                code="STATE_FILE_INVALID",
                hint="end the model servers of this host, then move the file away",
            ) from error


def _servers(document: Any) -> list[Server]:
    if document["format"] != FORMAT:
        raise ValueError(f"format is {document['format']!r}, expected {FORMAT}")
    return [from_json(item) for item in document["servers"]]


def to_json(server: Server) -> dict[str, Any]:
    """Return ``server`` as JSON values."""
    document = asdict(server)
    for name in _TIMES:
        document[name] = None if document[name] is None else document[name].isoformat()
    return document


def from_json(document: dict[str, Any]) -> Server:
    """Return the server of :func:`to_json`; raises ValueError, KeyError or TypeError."""
    fields = dict(document)
    for name in _TIMES:
        fields[name] = None if fields[name] is None else datetime.fromisoformat(fields[name])
    fields["spec"] = Spec(**fields["spec"])
    fields["state"] = State(fields["state"])
    fields["process"] = None if fields["process"] is None else Process(**fields["process"])
    fields["reason"] = None if fields["reason"] is None else Reason(**fields["reason"])
    return Server(**fields)
