"""Making a backup while registrations go on: first the database, then the objects that it names, the manifest last.

Objects never change and are named by their digest, so backups in one folder share them, and an object that is there
already is not copied again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog

from tidegate.core.clock import utc_now
from tidegate.core.errors import FailedPrecondition, InvalidInput, NotFound, Unavailable
from tidegate.core.object_store import ObjectStore, digest_of_file
from tidegate.core.settings import KafkaSettings
from tidegate.registry.backup import manifest as manifests
from tidegate.registry.backup.manifest import Manifest
from tidegate.registry.backup.objects import AT_ONCE, digest_of_key, named_objects, told
from tidegate.registry.backup.snapshot import opened, write_snapshot
from tidegate.registry.eventlog.bus_admin import Offsets, read_bus_id, read_input_offsets
from tidegate.registry.store import Store

BACKUPS: Final = "backups"
DATABASE: Final = "registry.sqlite3"
SUMS: Final = "SHA256SUMS"
OBJECT_BYTES_MAX: Final = 1 << 40

log = structlog.get_logger(__name__)


async def make_backup(
    store: Store, objects: ObjectStore, kafka: KafkaSettings, root: Path, *, allow_missing: bool = False
) -> Manifest:
    """Make a backup below ``root`` and return its manifest.

    Raises:
        FailedPrecondition: There is nothing to back up, objects are missing, or the folder can't be written.
        Unavailable: Database or object store are away.

    """
    with _written(root):
        name = utc_now().astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        folder = root / BACKUPS / name
        folder.mkdir(parents=True, mode=0o700)
        # Before the copy: what is read twice changes nothing, what is left out is lost.
        bus, inputs = await asyncio.to_thread(_where_the_bus_stands, kafka)
        snapshot = await asyncio.to_thread(write_snapshot, store, folder / DATABASE)
        named = await asyncio.to_thread(_named, folder / DATABASE, objects.bucket)
        missing = await _fetch_all(objects, root, named)
        if missing and not allow_missing:
            raise FailedPrecondition(
                f"the object store lacks what the database names: {told(missing)}",
                code="OBJECTS_MISSING",
                hint="find them, or give --allow-missing to make a backup that says so",
            )
        held = [key for key in named if key not in missing]
        await asyncio.to_thread(_finish, folder, held)
        manifest = Manifest(
            name=name,
            made_by=version("tidegate-registry"),
            time=utc_now().isoformat(),
            schema_revision=snapshot.revision,
            bucket=objects.bucket,
            counts=snapshot.counts,
            files={each: digest_of_file(folder / each) for each in (DATABASE, SUMS)},
            last_outbox_id=snapshot.last_outbox_id,
            object_count=len(held),
            bus=bus,
            inputs=inputs,
            missing=missing,
        )
        manifests.write(folder, manifest)
        manifests.sync_folder(folder.parent)
    return manifest


@contextmanager
def _written(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FailedPrecondition(
            f"the backup in {root} can't be written: {error.strerror or error}: {error.filename or ''}",
            code="BACKUP_NOT_WRITTEN",
            hint="see that the disk has room and that the folder may be written; what was begun is not used",
        ) from error


def _where_the_bus_stands(kafka: KafkaSettings) -> tuple[str, Offsets]:
    try:
        return read_bus_id(kafka), read_input_offsets(kafka)
    except Unavailable as error:
        # The database is worth a copy without it: a restore then reads all inputs from their beginning.
        log.warning("the bus is away; the backup does not say where it stands", error=str(error))
        return "", {}


def _named(database: Path, bucket: str) -> dict[str, str]:
    with opened(database) as connection:
        return named_objects(connection, bucket)


async def _fetch_all(objects: ObjectStore, root: Path, named: dict[str, str]) -> dict[str, str]:
    """Copy what ``root`` lacks; return what the store lacks."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def fetch(key: str) -> bool:
        async with gate:
            return await _fetch(objects, key, root / key)

    there = await asyncio.gather(*(fetch(key) for key in named))
    return {key: named[key] for key, held in zip(named, there, strict=True) if not held}


async def _fetch(objects: ObjectStore, key: str, path: Path) -> bool:
    if await asyncio.to_thread(_is_held, path):
        return True
    arrived = path.with_name(f"{path.name}.arrived-{os.getpid()}")
    try:
        found = await objects.download(objects.uri(key), arrived, limit_bytes=OBJECT_BYTES_MAX)
        if found != digest_of_key(key):
            raise InvalidInput(
                f"{objects.uri(key)} is damaged in the object store: its digest is {found}, "
                f"expected {digest_of_key(key)}",
                code="OBJECT_DAMAGED",
                hint="bring the object back from an older backup: its file there has the digest as its name",
            )
        await asyncio.to_thread(_keep, arrived, path)
    except NotFound:
        return False
    finally:
        arrived.unlink(missing_ok=True)
    return True


def _is_held(path: Path) -> bool:
    """Say whether the object is there; if not, make room for it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path.exists()


def _keep(arrived: Path, path: Path) -> None:
    """Give a file its name only when its bytes are on the disk."""
    _sync(arrived)
    arrived.rename(path)
    manifests.sync_folder(path.parent)


def _finish(folder: Path, keys: list[str]) -> None:
    """Write the sums, in the form that ``sha256sum --check`` reads, relative to the folder."""
    lines = [f"{digest_of_file(folder / DATABASE).removeprefix('sha256:')}  {DATABASE}"]
    lines += [f"{digest_of_key(key).removeprefix('sha256:')}  ../../{key}" for key in sorted(keys)]
    (folder / SUMS).write_text("\n".join(lines) + "\n")
    for name in (DATABASE, SUMS):
        _sync(folder / name)


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
