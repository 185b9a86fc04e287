"""Artifacts on this host's disk, named by their digest; fetched once, checked at every use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Set as AbstractSet
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from tidegate.core.errors import InvalidInput
from tidegate.core.object_store import ObjectStore, digest_of_file

log = structlog.get_logger(__name__)


class ArtifactCache:
    """A bounded cache; what a server uses is never pruned."""

    def __init__(self, *, directory: Path, store: ObjectStore, artifact_bytes_max: int, cache_bytes_max: int) -> None:
        self._directory = directory / "sha256"
        self._store = store
        self._artifact_bytes_max = artifact_bytes_max
        self._cache_bytes_max = cache_bytes_max
        # One fetch of a digest at a time; the locks live as long as somebody waits.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def clean(self) -> None:
        """Remove what a killed host had begun to fetch."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in self._directory.glob("*.*"):
            path.unlink()

    async def fetch(self, *, uri: str, digest: str, in_use: AbstractSet[str]) -> Path:
        """Return the file with the bytes of ``digest``; ``in_use`` are the digests that must stay.

        Raises:
            InvalidInput: The bytes at ``uri`` are others (code ARTIFACT_DIGEST_MISMATCH), too long, or absent.
            Unavailable: The store is away.

        """
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            path = self._path(digest)
            if not await asyncio.to_thread(_is_cached, path, digest):
                await self._download(uri, path, digest)
            os.utime(path)  # the last use, for the pruning
            await asyncio.to_thread(self._prune, {*in_use, digest})
            return path

    def _path(self, digest: str) -> Path:
        return self._directory / digest.removeprefix("sha256:")

    async def _download(self, uri: str, path: Path, digest: str) -> None:
        fetched = path.with_name(path.name + ".fetched")
        try:
            found = await self._store.download(uri, fetched, limit_bytes=self._artifact_bytes_max)
            if found != digest:
                raise InvalidInput(f"{uri} has digest {found}, expected {digest}", code="ARTIFACT_DIGEST_MISMATCH")
            fetched.chmod(0o444)
            fetched.rename(path)
        finally:
            fetched.unlink(missing_ok=True)

    def _prune(self, keep: AbstractSet[str]) -> None:
        """Remove the artifacts unused for longest until the cache fits."""
        files = {path: path.stat() for path in self._directory.iterdir()}
        kept = {path for path in files if path.suffix or f"sha256:{path.name}" in keep}
        total = sum(files[path].st_size for path in kept)
        for path in sorted(files.keys() - kept, key=lambda path: files[path].st_mtime, reverse=True):
            total += files[path].st_size
            if total > self._cache_bytes_max:
                path.unlink(missing_ok=True)
                log.info("artifact pruned", artifact=path.name)


def _is_cached(path: Path, digest: str) -> bool:
    if not path.is_file():
        return False
    found = digest_of_file(path)
    if found != digest:
        log.warning("a cached artifact was changed; it is fetched again", path=str(path), found=found)
        path.unlink()
    return found == digest
