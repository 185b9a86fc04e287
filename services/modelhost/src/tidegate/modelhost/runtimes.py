"""Serving runtimes: folders with a ``runtime.yaml`` that says how to start a model server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tidegate.core.errors import FailedPrecondition, InvalidInput
from tidegate.core.object_store import digest_of_file

RUNTIME_PATTERN: Final = re.compile(r"[a-z][a-z0-9-]{0,61}")
PROTOCOL: Final = "v2-rest"
_KEYS: Final = {
    "name", "formats", "protocol", "readiness_path", "python", "lock", "memory_mib_default", "command",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRuntime:
    """What ``runtime.yaml`` says."""

    name: str
    directory: Path
    formats: tuple[str, ...]
    readiness_path: str
    python: Path
    lock: Path
    memory_mib_default: int
    command: tuple[str, ...]

    def command_line(self, *, model: str, version: str, model_path: Path, listen: str) -> list[str]:
        """Return the command with its placeholders filled in."""
        values = {
            "python": str(self.python),
            "runtime_dir": str(self.directory),
            "model": model,
            "version": version,
            "model_path": str(model_path),
            "listen": listen,
        }
        return [part.format_map(values) for part in self.command]

    def digest(self) -> str:
        """Return the digest of the lock file: the identity of the runtime."""
        return digest_of_file(self.lock)


def load_runtime(runtimes_dir: Path, name: str) -> ServingRuntime:
    """Return the runtime in the folder ``name``.

    Raises:
        InvalidInput: There is none (RUNTIME_UNKNOWN), or its description is wrong (RUNTIME_INVALID).
        FailedPrecondition: Its environment is not installed (RUNTIME_NOT_INSTALLED).

    """
    directory = (runtimes_dir / name).resolve()
    path = directory / "runtime.yaml"
    if not RUNTIME_PATTERN.fullmatch(name) or not path.is_file():
        known = sorted(found.parent.name for found in runtimes_dir.glob("*/runtime.yaml"))
        raise InvalidInput(
            f"runtime is {name!r}, expected one of {known}", code="RUNTIME_UNKNOWN", field="spec.runtime"
        )
    try:
        runtime = _parse(yaml.safe_load(path.read_text()), name=name, directory=directory)
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is wrong: {error}", code="RUNTIME_INVALID", field="spec.runtime") from error
    if not runtime.python.exists() or not runtime.lock.is_file():
        raise FailedPrecondition(
            f"runtime {name!r} has no {runtime.python}",
            code="RUNTIME_NOT_INSTALLED",
            field="spec.runtime",
            hint=f"uv sync --frozen --project {directory}",
        )
    return runtime


def _parse(document: Any, *, name: str, directory: Path) -> ServingRuntime:
    if not isinstance(document, dict) or document.keys() - _KEYS:
        raise ValueError(f"keys are {list(document)}, expected {sorted(_KEYS)}")
    if document["name"] != name or document["protocol"] != PROTOCOL:
        raise ValueError(
            f"name is {document['name']!r} and protocol {document['protocol']!r}, expected {name!r}, {PROTOCOL!r}"
        )
    runtime = ServingRuntime(
        name=name,
        directory=directory,
        formats=tuple(document["formats"]),
        readiness_path=str(document["readiness_path"]),
        # Not resolved: a virtual environment is known by the path of its interpreter's link.
        python=directory / document.get("python", ".venv/bin/python"),
        lock=directory / document.get("lock", "uv.lock"),
        memory_mib_default=int(document.get("memory_mib_default", 4096)),
        command=tuple(str(part) for part in document["command"]),
    )
    runtime.command_line(model="m", version="1.0.0", model_path=directory, listen="unix:/s")
    return runtime
