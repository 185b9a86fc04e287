"""Restoring a backup: everything is checked before anything is changed, and the database changes in one transaction.

What was registered after the backup comes from the topics (``eventlog/catchup.py``), here if the bus answers, and in
any case before the registry accepts a registration.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Connection

from tidegate.core.clock import utc_now
from tidegate.core.errors import FailedPrecondition, InvalidInput, NotFound, Unavailable
from tidegate.core.object_store import ObjectStore, digest_of_file
from tidegate.core.settings import KafkaSettings
from tidegate.registry.backup import manifest as manifests
from tidegate.registry.backup.making import BACKUPS, DATABASE, SUMS
from tidegate.registry.backup.manifest import Manifest
from tidegate.registry.backup.objects import AT_ONCE, digest_of_key, missing_objects, named_objects
from tidegate.registry.backup.snapshot import held_rows, load_snapshot, opened, write_snapshot
from tidegate.registry.eventlog.bus_admin import has_members, read_bus_id
from tidegate.registry.eventlog.catchup import CaughtUp, catch_up
from tidegate.registry.eventlog.positions import (
    ANNOUNCE,
    BUS,
    RESTORED,
    count_versions,
    read_fact,
    write_fact,
    write_positions,
)
from tidegate.registry.eventlog.reannouncement import list_stable
from tidegate.registry.store import Store

# A registry that was killed stays in its consumer group for its session's 10 s.
GROUP_LEFT_WITHIN_S: Final = 20.0
POLL_S: Final = 0.5
# With these the restore is done all the same: the registry waits for the bus, and makes its topics.
LATER: Final = frozenset({"BROKER_UNAVAILABLE", "TOPIC_MISSING"})
UNKNOWN_BUS: Final = "unknown"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a restore shall do: ``backup`` empty = the newest; ``announce`` = tell a new bus what was stable."""

    backup: str = ""
    overwrite: bool = False
    discard_unpublished: bool = False
    announce: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What a restore did.

    ``learnt`` are the versions from after the backup, None = they are learnt when the registry starts, and
    ``not_learnt`` says why; ``replaced`` is the file that holds the database as it was before, empty = it was empty.
    """

    manifest: Manifest
    objects_copied: int
    versions: int
    learnt: tuple[str, ...] | None
    missing: dict[str, str]
    not_learnt: str = ""
    announced: tuple[str, ...] = ()
    replaced: str = ""


async def restore_backup(
    store: Store, objects: ObjectStore, kafka: KafkaSettings, root: Path, *, wish: Wish, aside: Path
) -> Restored:
    """Restore a backup below ``root``; the registry must be stopped. What it replaces is kept in the folder ``aside``.

    Raises:
        InvalidInput: The backup is incomplete or damaged; the message names the file.
        FailedPrecondition: The target is not empty, a registry runs, the schema is newer than this release, or there
            is nothing to announce.
        Unavailable: Database or object store are away, or the restored database can't catch up with the bus.

    """
    folder = chosen(root, wish.backup)
    manifest = manifests.read(folder)
    _check_bucket(manifest, objects)
    keys = await asyncio.to_thread(verify, folder, manifest)
    await _wait_for_an_empty_group(kafka)
    if wish.announce:
        await asyncio.to_thread(_check_announceable, folder / DATABASE, manifest, kafka)
    await objects.ensure_bucket()
    await asyncio.to_thread(_load, store, folder / DATABASE, wish, manifest, trial=True)
    replaced = await asyncio.to_thread(_keep_aside, store, aside)
    copied = await _put_all(objects, root, keys)
    await asyncio.to_thread(_load, store, folder / DATABASE, wish, manifest, trial=False)
    learnt, not_learnt = await _catch_up_if_possible(store, kafka, manifest)
    named, count = await store.read(
        lambda connection: (named_objects(connection, objects.bucket), count_versions(connection))
    )
    return Restored(
        manifest=manifest,
        objects_copied=copied,
        versions=count,
        learnt=learnt.versions if learnt is not None else None,
        missing=await missing_objects(objects, named),
        not_learnt=not_learnt,
        announced=learnt.announced if learnt is not None else (),
        replaced=replaced,
    )


def chosen(root: Path, name: str) -> Path:
    """Return the folder of the backup ``name``, or of the newest one.

    Raises:
        InvalidInput: There is none.

    """
    folder = root / BACKUPS
    names = sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    if not names or (name and name not in names):
        wanted = f"no backup {name}" if name else "no backup"
        raise InvalidInput(
            f"there is {wanted} in {root}", code="BACKUP_MISSING", hint=f"there are: {', '.join(names) or 'none'}"
        )
    return folder / (name or names[-1])


def verify(folder: Path, manifest: Manifest) -> list[str]:
    """Check every file of a backup against its digest; return the keys of its objects. Blocking.

    Raises:
        InvalidInput: A file is missing (code BACKUP_FILE_MISSING) or damaged (code BACKUP_DAMAGED).

    """
    for name, expected in sorted(manifest.files.items()):
        _check_file(folder / name, expected)
    keys = []
    for line in (folder / SUMS).read_text().splitlines():
        hex_digest, _, name = line.partition("  ")
        if name != DATABASE:
            _check_file(folder / name, f"sha256:{hex_digest}")
            keys.append(name.removeprefix("../../"))
    if len(keys) != manifest.object_count:
        raise InvalidInput(
            f"{folder / SUMS} names {len(keys)} objects, expected {manifest.object_count}", code="BACKUP_DAMAGED"
        )
    return keys


def _check_file(path: Path, expected: str) -> None:
    path = path.resolve()
    try:
        found = digest_of_file(path)
    except FileNotFoundError:
        raise InvalidInput(
            f"{path} is missing in the backup, expected a file with digest {expected}",
            code="BACKUP_FILE_MISSING",
            hint="name another backup with --backup; other backups may share the file",
        ) from None
    if found != expected:
        raise InvalidInput(
            f"{path} is damaged: its digest is {found}, expected {expected}",
            code="BACKUP_DAMAGED",
            hint="delete the file and make a new backup if the registry still runs; else name an older one",
        )


def _check_bucket(manifest: Manifest, objects: ObjectStore) -> None:
    if manifest.bucket != objects.bucket:
        raise FailedPrecondition(
            f"the backup is of the bucket {manifest.bucket}, which its versions name; this registry uses "
            f"{objects.bucket}",
            code="BUCKET_DIFFERS",
            hint="set TIDEGATE_S3_BUCKET to the bucket of the backup",
        )


async def _wait_for_an_empty_group(kafka: KafkaSettings) -> None:
    deadline = time.monotonic() + GROUP_LEFT_WITHIN_S
    while True:
        try:
            if not await asyncio.to_thread(has_members, kafka):
                return
        except Unavailable as error:
            log.warning("whether a registry runs can't be seen", code=error.code, error=str(error))
            return
        if time.monotonic() > deadline:
            raise FailedPrecondition(
                "a registry runs still: it is in the consumer group",
                code="REGISTRY_RUNNING",
                hint="stop every registry before a restore",
            )
        await asyncio.sleep(POLL_S)


class _TrialOnly(Exception):  # noqa: N818  (no error: it takes a transaction back)
    """Takes the trial's transaction back."""


def _load(store: Store, database: Path, wish: Wish, manifest: Manifest, *, trial: bool) -> None:
    try:
        with store.writing() as connection:
            load_snapshot(database, connection, overwrite=wish.overwrite, discard_unpublished=wish.discard_unpublished)
            _note(connection, wish, manifest)
            _end_trial(trial=trial)
    except _TrialOnly:
        return


def _end_trial(*, trial: bool) -> None:
    if trial:
        raise _TrialOnly


def _note(connection: Connection, wish: Wish, manifest: Manifest) -> None:
    """Leave to the catch-up what it must know: a restore, of which bus, and where its inputs stood."""
    write_fact(connection, RESTORED, manifest.name)
    if manifest.bus:
        write_fact(connection, BUS, manifest.bus)
        for topic, offsets in manifest.inputs.items():
            write_positions(connection, manifest.bus, topic, offsets)
    if wish.announce:
        write_fact(connection, ANNOUNCE, manifest.bus or read_fact(connection, BUS) or UNKNOWN_BUS)


def _check_announceable(database: Path, manifest: Manifest, kafka: KafkaSettings) -> None:
    """Refuse to announce where nothing would be, before anything is changed."""
    with opened(database) as connection:
        stable = list_stable(connection)
        before = manifest.bus or (read_fact(connection, BUS) if manifest.schema_revision != "0001" else "")
    hint = "restore without --announce"
    if not stable:
        raise FailedPrecondition(
            f"the backup {manifest.name} has no stable version to announce", code="NOTHING_TO_ANNOUNCE", hint=hint
        )
    try:
        bus = read_bus_id(kafka)
    except Unavailable as error:
        log.warning("whether this is a new bus is seen when the registry starts", code=error.code, error=str(error))
        return
    if bus == before:
        raise FailedPrecondition(
            f"the bus {bus} is that of the backup: it knows the stable versions, and who delivered them",
            code="NOTHING_TO_ANNOUNCE",
            hint=hint,
        )


def _keep_aside(store: Store, folder: Path) -> str:
    """Copy what a restore is about to replace; return the file, empty = there is nothing."""
    with store.reading() as connection:
        if not held_rows(connection):
            return ""
    stamp = utc_now().astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    path = folder / f"before-restore-{stamp}.sqlite3"
    write_snapshot(store, path)
    path.chmod(0o600)
    return str(path)


async def _put_all(objects: ObjectStore, root: Path, keys: list[str]) -> int:
    gate = asyncio.Semaphore(AT_ONCE)

    async def put(key: str) -> bool:
        async with gate:
            return await _put(objects, key, root / key)

    return sum(await asyncio.gather(*(put(key) for key in keys)))


async def _put(objects: ObjectStore, key: str, path: Path) -> bool:
    """Bring an object back unless the store has it; what it has is read, since a damaged one would be believed."""
    try:
        if await objects.digest(objects.uri(key)) == digest_of_key(key):
            return False
        log.warning("the object store held a damaged object, replaced", key=key)
    except NotFound:
        log.debug("object brought back", key=key)
    await objects.put_file(key, path)
    return True


async def _catch_up_if_possible(store: Store, kafka: KafkaSettings, manifest: Manifest) -> tuple[CaughtUp | None, str]:
    """Catch up now, or say why it must wait for the registry's start."""
    try:
        return await catch_up(store, kafka), ""
    except Unavailable as error:
        told = f"{error.code}: {error}"
        if error.code in LATER:
            log.warning("the registry will catch up when it starts", error=told)
            return None, told
        raise Unavailable(
            f"the database holds the backup {manifest.name} now, but did not catch up with the event bus: {error}",
            code=error.code,
            hint="mend that and start the registry, which catches up before it takes a write",
        ) from error
