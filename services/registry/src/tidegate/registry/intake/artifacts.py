"""Artifacts and files: from where producers may name them, into the store under their digest."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.contracts.names import is_digest
from tidegate.contracts.uris import FILE, S3, scheme_of, uri_fault
from tidegate.core.errors import InvalidInput, NotFound
from tidegate.core.object_store import ObjectStore, parse_s3_uri
from tidegate.registry.intake.formats import ONNX, PICKLE, PICKLE_FORMATS, UNKNOWN, sniff
from tidegate.registry.intake.import_dir import open_import
from tidegate.registry.intake.onnx_scan import scan_onnx
from tidegate.registry.intake.rejection import Rejected, rejected
from tidegate.v1.values_pb2 import Artifact, Signature

CHUNK_BYTES: Final = 1 << 20
NAMES_TOLD_MAX: Final = 5
NAME_CHARS_MAX: Final = 80
CONVERT_HINT: Final = "export the model to ONNX, for example with skl2onnx.to_onnx(model, sample_inputs)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A file that was fetched to ``path``."""

    path: Path
    digest: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRules:
    """Where sources may lie, and how large they may be."""

    buckets: frozenset[str]
    import_dir: Path | None
    artifact_bytes_max: int
    file_bytes_max: int


class ArtifactIntake:
    """Fetches what producers name, checks it, and stores it; fetching stores nothing."""

    def __init__(self, store: ObjectStore, rules: SourceRules) -> None:
        self._store = store
        self._rules = rules

    async def fetch_artifact(self, artifact: Artifact, folder: Path, *, signature: Signature) -> Fetched:
        """Fetch the artifact into ``folder`` and check digest, size, format, and what an ONNX model may not hold.

        Raises:
            Rejected: It is not acceptable; the reason says why.
            Unavailable: The object store is away.

        """
        _check_declared(artifact)
        fetched = await self._fetch(
            artifact.uri, folder / "artifact", limit_bytes=self._rules.artifact_bytes_max, field="artifact.uri"
        )
        if artifact.digest and artifact.digest != fetched.digest:
            raise rejected(
                "ARTIFACT_DIGEST_MISMATCH",
                f"{artifact.uri} has digest {fetched.digest}, declared was {artifact.digest}",
                "artifact.digest",
                hint="was the file replaced after it was trained?",
            )
        if artifact.size_bytes and artifact.size_bytes != fetched.size_bytes:
            raise rejected(
                "ARTIFACT_SIZE_MISMATCH",
                f"{artifact.uri} has {fetched.size_bytes} bytes, declared were {artifact.size_bytes}",
                "artifact.size_bytes",
            )
        await asyncio.to_thread(_check_format, artifact.uri, fetched)
        await asyncio.to_thread(_check_onnx, artifact.uri, fetched, signature)
        return fetched

    async def fetch_file(self, uri: str, path: Path, *, field: str) -> Fetched:
        """Fetch an evaluation, reference or sample file.

        Raises:
            Rejected: It is missing, too large, or lies where nothing may be named.
            Unavailable: The object store is away.

        """
        return await self._fetch(uri, path, limit_bytes=self._rules.file_bytes_max, field=field)

    async def store_artifact(self, fetched: Fetched) -> str:
        """Store under the digest and return the URI; storing twice changes nothing."""
        return await self._store.put_file(_key(fetched, is_artifact=True), fetched.path)

    async def store_file(self, fetched: Fetched) -> str:
        """Store a file under its digest and return the URI; storing twice changes nothing."""
        return await self._store.put_file(_key(fetched, is_artifact=False), fetched.path)

    async def store_if_lost(self, fetched: Fetched, named: Collection[str], *, is_artifact: bool) -> bool:
        """Store again what one of the URIs ``named`` promises and the store does not have; return whether it did."""
        key = _key(fetched, is_artifact=is_artifact)
        if self._store.uri(key) not in named:
            return False
        try:
            await self._store.size(self._store.uri(key))
        except NotFound:
            await self._store.put_file(key, fetched.path)
            return True
        return False

    async def has_all(self, uris: Collection[str]) -> bool:
        """Say whether the store has all these objects.

        Raises:
            Unavailable: The object store is away.

        """
        for uri in uris:
            try:
                await self._store.size(uri)
            except NotFound:
                return False
        return True

    async def _fetch(self, uri: str, path: Path, *, limit_bytes: int, field: str) -> Fetched:
        if fault := uri_fault(uri):
            raise rejected("URI_INVALID", fault, field)
        scheme = scheme_of(uri)
        if scheme == FILE:
            return await asyncio.to_thread(self._copy_import, uri, path, limit_bytes, field)
        if scheme != S3:
            raise rejected(
                "SOURCE_NOT_ALLOWED", f"{uri!r} is not allowed, expected s3://BUCKET/KEY or file:///PATH", field
            )
        return await self._download(uri, path, limit_bytes, field)

    async def _download(self, uri: str, path: Path, limit_bytes: int, field: str) -> Fetched:
        try:
            bucket, _ = parse_s3_uri(uri)
            if bucket not in self._rules.buckets:
                allowed = ", ".join(sorted(self._rules.buckets))
                raise rejected("SOURCE_NOT_ALLOWED", f"{uri} is not allowed, expected a bucket of {allowed}", field)
            if await self._store.size(uri) > limit_bytes:
                raise _too_large(uri, limit_bytes, field)
            digest = await self._store.download(uri, path, limit_bytes=limit_bytes)
        except Rejected:
            raise
        except NotFound:
            raise rejected(
                "ARTIFACT_MISSING", f"{uri} does not exist", field, hint="upload before publishing"
            ) from None
        except InvalidInput as error:
            if error.code == "OBJECT_TOO_LARGE":
                raise _too_large(uri, limit_bytes, field) from None
            raise rejected(error.code, str(error), field) from None
        return Fetched(path=path, digest=digest, size_bytes=(await asyncio.to_thread(path.stat)).st_size)

    def _copy_import(self, uri: str, path: Path, limit_bytes: int, field: str) -> Fetched:
        sha256 = hashlib.sha256()
        size = 0
        descriptor = open_import(uri, self._rules.import_dir, field)
        with os.fdopen(descriptor, "rb") as source, path.open("wb") as target:
            while chunk := source.read(CHUNK_BYTES):
                size += len(chunk)
                if size > limit_bytes:
                    raise _too_large(uri, limit_bytes, field)
                sha256.update(chunk)
                target.write(chunk)
        return Fetched(path=path, digest=f"sha256:{sha256.hexdigest()}", size_bytes=size)


def _check_declared(artifact: Artifact) -> None:
    if not artifact.uri:
        raise rejected("ARTIFACT_MISSING", "artifact.uri is empty, expected where the model is", "artifact.uri")
    if artifact.digest and not is_digest(artifact.digest):
        raise rejected(
            "DIGEST_INVALID", f"digest is {artifact.digest!r}, expected sha256: and 64 hex digits", "artifact.digest"
        )
    declared = artifact.format.lower()
    if declared in PICKLE_FORMATS:
        raise _pickle(f"format {artifact.format!r}")
    if declared not in ("", ONNX):
        raise rejected(
            "FORMAT_UNSUPPORTED", f"format is {artifact.format!r}, expected onnx", "artifact.format", hint=CONVERT_HINT
        )


def _check_format(uri: str, fetched: Fetched) -> None:
    if fetched.size_bytes == 0:
        raise rejected("FORMAT_UNKNOWN", f"{uri} is empty, expected an ONNX model", "artifact")
    with fetched.path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        found = sniff(mapped)
        # Views of the mapping may still live in a traceback or a cycle; it goes with the last of them.
        del mapped
    if found == PICKLE:
        raise _pickle(uri)
    if found == UNKNOWN:
        raise rejected("FORMAT_UNKNOWN", f"{uri} is no ONNX model", "artifact", hint=CONVERT_HINT)


def _check_onnx(uri: str, fetched: Fetched, signature: Signature) -> None:
    """Refuse a model that reads other files, has values that no request can carry, or misses a promised default."""
    with fetched.path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        facts = scan_onnx(mapped)
        del mapped
    if facts.broken:
        raise rejected("FORMAT_UNKNOWN", f"{uri} is no sound ONNX model: {facts.broken}", "artifact", hint=CONVERT_HINT)
    if facts.external:
        raise rejected(
            "EXTERNAL_DATA",
            f"{uri} keeps {_some(facts.external)} in other files, expected one file that holds all",
            "artifact",
            hint="save the model as one file: onnx.save_model(onnx.load(PATH), NEW, save_as_external_data=False)",
        )
    if facts.no_tensors:
        raise rejected(
            "TENSOR_EXPECTED",
            f"{uri} has {_some(facts.no_tensors)} as a sequence, map or optional, expected tensors",
            "artifact",
            hint="convert a scikit-learn classifier with options={'zipmap': False}",
        )
    known = {*facts.inputs, *facts.defaults}
    for index, tensor in enumerate(signature.inputs):
        if tensor.optional and tensor.name in known and tensor.name not in facts.defaults:
            raise rejected(
                "OPTIONAL_WITHOUT_DEFAULT",
                f"input {tensor.name!r} is declared optional, but the model has no default for it",
                f"signature.inputs[{index}].optional",
                hint="give it an initializer of the same name in the ONNX graph, or declare it required",
            )


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - NAMES_TOLD_MAX} more" if len(names) > NAMES_TOLD_MAX else ""
    return ", ".join(repr(name[:NAME_CHARS_MAX]) for name in names[:NAMES_TOLD_MAX]) + more


def _pickle(what: str) -> Rejected:
    message = f"{what} is a pickle, which runs code of its author wherever it is loaded"
    return rejected("PICKLE_REFUSED", message, "artifact", hint=CONVERT_HINT)


def _too_large(uri: str, limit_bytes: int, field: str) -> Rejected:
    return rejected("ARTIFACT_TOO_LARGE", f"{uri} is longer than {limit_bytes} bytes", field)


def _key(fetched: Fetched, *, is_artifact: bool) -> str:
    return f"{'artifacts' if is_artifact else 'files'}/sha256/{fetched.digest.removeprefix('sha256:')}"
