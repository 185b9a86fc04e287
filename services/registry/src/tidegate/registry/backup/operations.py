"""The operator's commands of the registry: ``python -m tidegate.registry backup | restore | audit``.

They read the same environment as the registry itself, so that they work on the same database, bucket and bus.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tidegate.core.errors import TidegateError
from tidegate.core.object_store import ObjectStore
from tidegate.core.settings import KafkaSettings, ObjectStoreSettings
from tidegate.registry.backup.making import BACKUPS, make_backup
from tidegate.registry.backup.objects import missing_objects, named_objects
from tidegate.registry.backup.restoring import Restored, Wish, restore_backup
from tidegate.registry.settings import RegistrySettings
from tidegate.registry.store import Store

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
MISSING_TOLD_MAX: Final = 20


def run(arguments: Sequence[str]) -> int:
    """Carry out one command and return its exit code: 0 done, 1 failed (audit: something is missing)."""
    asked = _parser().parse_args(arguments)
    settings = RegistrySettings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    store = Store(settings.url())
    try:
        asked.aside = settings.data_dir.resolve()
        return int(asyncio.run(asked.work(asked, store, ObjectStore(ObjectStoreSettings()))))
    except TidegateError as error:
        sys.stderr.write(f"error: {error.code}: {error}\n")
        return EXIT_FAILED
    finally:
        store.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tidegate", description="Without a command: run the registry.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    backup = commands.add_parser("backup", help="Copy the database and the objects that it names.")
    backup.add_argument("folder", type=Path, help="Folder of backups; they share their objects.")
    backup.add_argument("--allow-missing", action="store_true", help="Go on if the store has lost objects.")
    backup.set_defaults(work=_backup)
    restore = commands.add_parser("restore", help="Bring a backup back; the registry must be stopped.")
    restore.add_argument("folder", type=Path, help="Folder of backups.")
    restore.add_argument("--backup", default="", help="Name of the backup (default: the newest).")
    restore.add_argument("--overwrite", action="store_true", help="Replace a database that is not empty.")
    restore.add_argument(
        "--discard-unpublished",
        action="store_true",
        help="With --overwrite: lose acknowledged events that are not on the bus yet.",
    )
    restore.add_argument(
        "--announce", action="store_true", help="On a new Kafka cluster: have the stable versions delivered again."
    )
    restore.set_defaults(work=_restore)
    audit = commands.add_parser("audit", help="Say which objects that the database names are missing.")
    audit.set_defaults(work=_audit)
    for command in (backup, restore, audit):
        command.add_argument("--json", action="store_true", help="Write JSON instead of text.")
    return parser


async def _backup(asked: Any, store: Store, objects: ObjectStore) -> int:
    made = await make_backup(
        store, objects, KafkaSettings(), asked.folder.absolute(), allow_missing=asked.allow_missing
    )
    counts = ", ".join(f"{count} {name}" for name, count in made.counts.items())
    _say(
        asked,
        asdict(made),
        [
            f"backup {made.name}: {counts}; {made.object_count} objects",
            f"in {asked.folder.absolute() / BACKUPS / made.name}; check it with `sha256sum --check SHA256SUMS` there",
            *_told(made.missing),
        ],
    )
    return EXIT_OK


async def _restore(asked: Any, store: Store, objects: ObjectStore) -> int:
    wish = Wish(
        backup=asked.backup,
        overwrite=asked.overwrite,
        discard_unpublished=asked.discard_unpublished,
        announce=asked.announce,
    )
    done = await restore_backup(store, objects, KafkaSettings(), asked.folder.absolute(), wish=wish, aside=asked.aside)
    versions, objects_copied = done.manifest.counts["versions"], done.objects_copied
    lines = [
        f"restored backup {done.manifest.name}: {versions} versions, {objects_copied} objects brought back",
        _learnt(done),
        *_announced(done, asked=asked.announce),
        *([f"what was there before is in {done.replaced}"] if done.replaced else []),
        f"the registry has {done.versions} versions now",
        *_told(done.missing),
    ]
    _say(asked, asdict(done), lines)
    return EXIT_OK


async def _audit(asked: Any, store: Store, objects: ObjectStore) -> int:
    named = await store.read(lambda connection: named_objects(connection, objects.bucket))
    missing = await missing_objects(objects, named)
    _say(
        asked,
        {"objects": len(named), "missing": missing},
        [f"{len(named)} objects named, {len(missing)} missing", *_told(missing)],
    )
    return EXIT_FAILED if missing else EXIT_OK


def _learnt(done: Restored) -> str:
    if done.learnt is None:
        return (
            f"what came after the backup is learnt from the event bus when the registry starts; now: {done.not_learnt}"
        )
    if not done.learnt:
        return "nothing was registered after the backup"
    return f"learnt from the event bus, registered after the backup: {', '.join(done.learnt)}"


def _announced(done: Restored, *, asked: bool) -> list[str]:
    if not asked:
        return []
    if done.learnt is None:
        return ["the stable versions are announced when the registry starts, if that bus is a new one"]
    return [f"announced on the new event bus: {', '.join(done.announced) or 'nothing'}"]


def _told(missing: dict[str, str]) -> list[str]:
    lines = [f"missing: {key} of {reference}" for key, reference in list(missing.items())[:MISSING_TOLD_MAX]]
    if len(missing) > MISSING_TOLD_MAX:
        lines.append(f"missing: {len(missing) - MISSING_TOLD_MAX} more")
    if missing:
        lines.append("hint: publish those versions' artifacts again from where they were trained; see operations.md")
    return lines


def _say(asked: Any, document: dict[str, Any], lines: list[str]) -> None:
    text = json.dumps(document, indent=2) if asked.json else "\n".join(lines)
    sys.stdout.write(text + "\n")
