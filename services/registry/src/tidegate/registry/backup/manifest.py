"""The manifest of a backup: written last, so that a folder without one is a backup that did not come to its end."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tidegate.core.errors import InvalidInput

FORMAT: Final = 1
NAME: Final = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a backup holds.

    ``files`` are the digests of the files in its own folder; ``bus`` is the id of the bus, ``inputs`` what
    was committed of the input topics before the copy began; ``missing`` are objects that the store had lost already.
    """

    name: str
    made_by: str
    time: str
    schema_revision: str
    bucket: str
    counts: dict[str, int]
    files: dict[str, str]
    last_outbox_id: int
    object_count: int
    bus: str = ""
    inputs: dict[str, dict[int, int]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest in one step: either all of it is there, or nothing."""
    document = asdict(manifest)
    document["digest"] = _digest(document)
    partial = folder / (NAME + ".partial")
    with partial.open("w") as stream:
        stream.write(json.dumps(document, indent=2, sort_keys=True) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(folder / NAME)
    sync_folder(folder)


def read(folder: Path) -> Manifest:
    """Return the manifest of the backup in ``folder``.

    Raises:
        InvalidInput: The backup is incomplete, its manifest damaged, or of a format that this release can't read.

    """
    path = folder / NAME
    try:
        document = json.loads(path.read_text())
        form, told = document["format"], document["digest"]
    except FileNotFoundError:
        raise InvalidInput(
            f"the backup {folder} is not complete: {NAME} is missing, which is written last",
            code="BACKUP_INCOMPLETE",
            hint="name an older one with --backup, or make a new one",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, repr(error)) from None
    if form != FORMAT:
        raise InvalidInput(
            f"{path} has format {form}, expected {FORMAT}",
            code="BACKUP_FORMAT_UNKNOWN",
            hint="restore it with the release that made it (made_by in the manifest)",
        )
    found = _digest({name: value for name, value in document.items() if name != "digest"})
    if found != told:
        raise _damaged(path, f"its digest is {found}, it says {told}")
    try:
        return _from_document(document)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, repr(error)) from None


def sync_folder(folder: Path) -> None:
    """Have the names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _from_document(document: dict[str, Any]) -> Manifest:
    plain = {name: value for name, value in document.items() if name not in {"digest", "inputs"}}
    inputs = {
        topic: {int(partition): int(offset) for partition, offset in partitions.items()}
        for topic, partitions in document["inputs"].items()
    }
    return Manifest(**plain, inputs=inputs)


def _digest(document: dict[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _damaged(path: Path, what: str) -> InvalidInput:
    return InvalidInput(f"{path} is damaged: {what}", code="BACKUP_DAMAGED", hint="name an older one with --backup")
