"""Which objects the database names, and whether they are where they should be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, select

from tidegate.contracts.names import version_reference
from tidegate.core.errors import FailedPrecondition, NotFound
from tidegate.core.object_store import ObjectStore, parse_s3_uri
from tidegate.registry.catalog.tables import versions
from tidegate.registry.intake.mending import FILE_FIELDS
from tidegate.v1.events_pb2 import ModelRegistered

AT_ONCE: Final = 8


def named_objects(connection: Connection, bucket: str) -> dict[str, str]:
    """Return the key of each object that a version names, with the first version that names it.

    Raises:
        FailedPrecondition: One lies in another bucket (code BUCKET_DIFFERS).

    """
    found: dict[str, str] = {}
    rows = connection.execute(select(versions.c.registered).order_by(versions.c.id).execution_options(yield_per=500))
    for row in rows:
        for key, reference in keys_of(ModelRegistered.FromString(bytes(row.registered)), bucket).items():
            found.setdefault(key, reference)
    return found


def keys_of(registered: ModelRegistered, bucket: str) -> dict[str, str]:
    """Return the keys of the objects of one version, each with the version's reference."""
    reference = version_reference(registered.model, registered.version)
    uris = [registered.artifact.uri, *(getattr(registered, field) for field in FILE_FIELDS)]
    keys = {}
    for uri in uris:
        if not uri:
            continue
        held_in, key = parse_s3_uri(uri)
        if held_in != bucket:
            raise FailedPrecondition(
                f"{reference} names {uri}, expected an object in the bucket {bucket}",
                code="BUCKET_DIFFERS",
                hint="set TIDEGATE_S3_BUCKET to the bucket that the registry works with",
            )
        keys[key] = reference
    return keys


async def missing_objects(objects: ObjectStore, named: Mapping[str, str]) -> dict[str, str]:
    """Return those of ``named`` that the store does not have."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def is_missing(key: str) -> bool:
        async with gate:
            try:
                await objects.size(objects.uri(key))
            except NotFound:
                return True
            return False

    answers = await asyncio.gather(*(is_missing(key) for key in named))
    return {key: named[key] for key, absent in zip(named, answers, strict=True) if absent}


def digest_of_key(key: str) -> str:
    """Return the digest that a content-addressed key promises."""
    return f"sha256:{key.rpartition('/')[2]}"


def told(missing: Mapping[str, str], *, at_most: int = 5) -> str:
    """Return a short sentence about missing objects."""
    first = [f"{key} of {reference}" for key, reference in list(missing.items())[:at_most]]
    more = f" and {len(missing) - at_most} more" if len(missing) > at_most else ""
    return ", ".join(first) + more


def paths_of(root: Path, keys: Iterable[str]) -> dict[str, Path]:
    """Return where each object lies in the backup folder ``root``."""
    return {key: root / key for key in keys}
