"""Artifacts in S3, through the ``minio`` client; objects are named by their sha256, so nothing is ever overwritten."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from tidegate.contracts.uris import split_s3_uri
from tidegate.core.errors import InvalidInput, NotFound, TidegateError, Unavailable
from tidegate.core.settings import ObjectStoreSettings

CHUNK_BYTES: Final = 1 << 20
CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 30.0
P = ParamSpec("P")
R = TypeVar("R")
_REFUSED_CODES: Final = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
# What a store says of names that it can't hold: no waiting helps.
_INVALID_CODES: Final = frozenset(
    {"InvalidBucketName", "KeyTooLongError", "InvalidURI", "XMinioInvalidObjectName", "XMinioInvalidResourceName"}
)
_ABSENT_CODES: Final = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchObject", "NotFound"})


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and key of ``s3://bucket/key``.

    Raises:
        InvalidInput: ``uri`` has another form, or breaks a rule of S3's (code URI_INVALID).

    """
    try:
        return split_s3_uri(uri)
    except ValueError as error:
        raise InvalidInput(str(error), code="URI_INVALID") from None


def digest_of_bytes(data: bytes) -> str:
    """Return ``sha256:<hex>`` of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """Return ``sha256:<hex>`` of the file at ``path``."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


class ObjectStore:
    """An S3 store; methods are coroutines, the blocking client runs in threads.

    Every method raises NotFound if the object is absent and Unavailable if the store is.
    """

    def __init__(self, settings: ObjectStoreSettings) -> None:
        self.bucket = settings.bucket
        self._client = Minio(
            settings.endpoint,
            access_key=settings.access_key.get_secret_value(),
            secret_key=settings.secret_key.get_secret_value(),
            secure=settings.secure,
            region="us-east-1",
            http_client=urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
                retries=urllib3.Retry(total=2, backoff_factor=0.1, status_forcelist=(502, 503, 504)),
                maxsize=8,
            ),
        )

    def uri(self, key: str) -> str:
        """Return the URI of ``key`` in the own bucket."""
        return f"s3://{self.bucket}/{key}"

    async def ensure_bucket(self, bucket: str | None = None) -> None:
        """Create ``bucket`` (default: the own one) unless it exists."""
        await asyncio.to_thread(self._guard, self._ensure_bucket, bucket or self.bucket)

    async def size(self, uri: str) -> int:
        """Return the length of the object in bytes."""
        bucket, key = parse_s3_uri(uri)
        return await asyncio.to_thread(self._guard, self._size, bucket, key)

    async def digest(self, uri: str) -> str:
        """Read the object and return ``sha256:<hex>`` of its bytes."""
        bucket, key = parse_s3_uri(uri)
        return await asyncio.to_thread(self._guard, self._digest, bucket, key)

    async def read(self, uri: str, *, limit_bytes: int) -> bytes:
        """Return the bytes of the object.

        Raises:
            InvalidInput: It is longer than ``limit_bytes`` (code OBJECT_TOO_LARGE).

        """
        bucket, key = parse_s3_uri(uri)
        return await asyncio.to_thread(self._guard, self._read, bucket, key, limit_bytes)

    async def download(self, uri: str, path: Path, *, limit_bytes: int) -> str:
        """Write the object to ``path`` and return its digest; ``path`` appears only when complete.

        Raises:
            InvalidInput: It is longer than ``limit_bytes`` (code OBJECT_TOO_LARGE).

        """
        bucket, key = parse_s3_uri(uri)
        return await asyncio.to_thread(self._guard, self._download, bucket, key, path, limit_bytes)

    async def put_file(self, key: str, path: Path, *, content_type: str = "application/octet-stream") -> str:
        """Store the file at ``path`` as ``key`` in the own bucket and return its URI."""
        await asyncio.to_thread(self._guard, self._put_file, key, path, content_type)
        return self.uri(key)

    async def put_bytes(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> str:
        """Store ``data`` as ``key`` in the own bucket and return its URI."""
        await asyncio.to_thread(self._guard, self._put_bytes, key, data, content_type)
        return self.uri(key)

    def _guard(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``call`` and turn the client's errors into ours."""
        try:
            return call(*args, **kwargs)
        except S3Error as error:
            raise self._translated(error) from error
        except (HTTPError, MinioException, ConnectionError) as error:
            raise Unavailable(f"the object store is away: {error}", code="OBJECT_STORE_UNAVAILABLE") from error

    def _translated(self, error: S3Error) -> TidegateError:
        if error.code in _ABSENT_CODES:
            return NotFound(f"s3://{error.bucket_name}/{error.object_name} does not exist", code="OBJECT_MISSING")
        if error.code in _INVALID_CODES:
            return InvalidInput(f"the object store can't hold that name: {error.message}", code="URI_INVALID")
        if error.code not in _REFUSED_CODES:
            return Unavailable(f"the object store answered {error.code}: {error.message}", code="OBJECT_STORE_ERROR")
        told = f"the object store refused: {error.code}: {error.message}"
        if error.bucket_name != self.bucket and self._is_own_bucket_open():
            return InvalidInput(told, code="OBJECT_REFUSED")
        # Nobody's message is to blame for our own keys and rights: work waits until they are mended.
        return Unavailable(told, code="OBJECT_STORE_REFUSED", hint="see the keys of this service and what they allow")

    def _is_own_bucket_open(self) -> bool:
        """Say whether our keys are good: a refused look at an object does not tell why."""
        try:
            self._client.bucket_exists(bucket_name=self.bucket)
        except (S3Error, HTTPError, MinioException, ConnectionError):
            return False
        return True

    def _ensure_bucket(self, bucket: str) -> None:
        if not self._client.bucket_exists(bucket_name=bucket):
            try:
                self._client.make_bucket(bucket_name=bucket)
            except S3Error as error:
                if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                    raise

    def _size(self, bucket: str, key: str) -> int:
        return int(self._client.stat_object(bucket_name=bucket, object_name=key).size or 0)

    def _digest(self, bucket: str, key: str) -> str:
        sha256 = hashlib.sha256()
        response = self._client.get_object(bucket_name=bucket, object_name=key)
        try:
            for chunk in response.stream(CHUNK_BYTES):
                sha256.update(chunk)
        finally:
            response.close()
            response.release_conn()
        return "sha256:" + sha256.hexdigest()

    def _read(self, bucket: str, key: str, limit_bytes: int) -> bytes:
        response = self._client.get_object(bucket_name=bucket, object_name=key)
        try:
            data = bytes(response.read(limit_bytes + 1))
        finally:
            response.close()
            response.release_conn()
        if len(data) > limit_bytes:
            raise _too_large(bucket, key, limit_bytes)
        return data

    def _download(self, bucket: str, key: str, path: Path, limit_bytes: int) -> str:
        partial = path.with_name(path.name + ".partial")
        sha256 = hashlib.sha256()
        written = 0
        response = self._client.get_object(bucket_name=bucket, object_name=key)
        try:
            with partial.open("wb") as stream:
                for chunk in response.stream(CHUNK_BYTES):
                    written += len(chunk)
                    if written > limit_bytes:
                        raise _too_large(bucket, key, limit_bytes)
                    sha256.update(chunk)
                    stream.write(chunk)
            partial.rename(path)
        finally:
            response.close()
            response.release_conn()
            partial.unlink(missing_ok=True)
        return "sha256:" + sha256.hexdigest()

    def _put_file(self, key: str, path: Path, content_type: str) -> None:
        self._client.fput_object(
            bucket_name=self.bucket, object_name=key, file_path=str(path), content_type=content_type
        )

    def _put_bytes(self, key: str, data: bytes, content_type: str) -> None:
        self._client.put_object(
            bucket_name=self.bucket, object_name=key, data=BytesIO(data), length=len(data), content_type=content_type
        )


def _too_large(bucket: str, key: str, limit_bytes: int) -> InvalidInput:
    return InvalidInput(f"s3://{bucket}/{key} is longer than {limit_bytes} bytes", code="OBJECT_TOO_LARGE")
