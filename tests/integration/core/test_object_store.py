"""What we take an object store for, on each that we claim to run on."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid

import pytest
from pydantic import SecretStr

from tidegate.core.errors import InvalidInput, NotFound, Unavailable
from tidegate.core.object_store import ObjectStore, digest_of_file
from tidegate.stack.ports import free_ports

MIB = 1 << 20
# Beyond the client's part size: the upload goes in several parts.
SEVERAL_PARTS = 12 * MIB


@pytest.fixture
def store(any_store) -> ObjectStore:
    return ObjectStore(any_store)


async def test_bytes_come_back(store):
    uri = await store.put_bytes("sha256/abc", b"a model")
    assert uri == f"s3://{store.bucket}/sha256/abc"
    assert await store.read(uri, limit_bytes=100) == b"a model"
    assert await store.size(uri) == 7


async def test_a_file_in_several_parts_comes_back_whole(store, tmp_path):
    source = tmp_path / "model.onnx"
    source.write_bytes(os.urandom(SEVERAL_PARTS))
    uri = await store.put_file("sha256/large", source)
    assert await store.size(uri) == SEVERAL_PARTS
    digest = await store.download(uri, tmp_path / "copy", limit_bytes=SEVERAL_PARTS)
    assert digest == digest_of_file(source) == "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest()


async def test_what_is_too_long_is_not_kept(store, tmp_path):
    uri = await store.put_bytes("long", b"x" * 1000)
    for attempt in (store.read(uri, limit_bytes=999), store.download(uri, tmp_path / "copy", limit_bytes=999)):
        with pytest.raises(InvalidInput) as caught:
            await attempt
        assert caught.value.code == "OBJECT_TOO_LARGE"
    assert list(tmp_path.iterdir()) == []


async def test_what_is_absent_is_not_found(store, tmp_path):
    for attempt in (
        store.read(store.uri("nothing"), limit_bytes=1),
        store.size(store.uri("nothing")),
        store.download(f"s3://{uuid.uuid4().hex}/key", tmp_path / "copy", limit_bytes=1),
    ):
        with pytest.raises(NotFound):
            await attempt


async def test_a_bucket_is_made_once_whoever_asks(any_store):
    settings = any_store.model_copy(update={"bucket": f"own-{uuid.uuid4().hex[:12]}"})
    stores = [ObjectStore(settings) for _ in range(4)]
    await asyncio.gather(*(store.ensure_bucket() for store in stores))
    await stores[0].put_bytes("key", b"x")


async def test_the_same_object_twice_is_the_same_object(store):
    # Keys are digests: whoever writes a key writes the same bytes, also at the same time.
    uris = await asyncio.gather(*(store.put_bytes("sha256/same", b"same") for _ in range(8)))
    assert len(set(uris)) == 1
    assert await store.read(uris[0], limit_bytes=10) == b"same"


async def test_wrong_keys_are_told_as_that_and_blame_no_message(any_store):
    for wrong in ({"secret_key": SecretStr("wrong-secret-key")}, {"access_key": SecretStr("nobody")}):
        store = ObjectStore(any_store.model_copy(update=wrong))
        with pytest.raises(Unavailable) as caught:
            await store.put_bytes("key", b"x")
        assert caught.value.code == "OBJECT_STORE_REFUSED"


async def test_no_server_is_unavailable(any_store):
    (port,) = free_ports(1)
    store = ObjectStore(any_store.model_copy(update={"endpoint": f"127.0.0.1:{port}"}))
    with pytest.raises(Unavailable):
        await store.size(store.uri("key"))


@pytest.mark.parametrize(
    "key",
    [
        "a" * 1024,
        "a" * 256,
        "ä" * 128,
        "a/" * 500 + "a",
        "a\\b",
        "a:b*c|d<e>",
        "a%2e%2e/%00",
        " a ",
        "...",
        "\u202e\U000e0001",
        "🌊",
    ],
    ids=ascii,
)
async def test_a_legal_key_that_is_not_there_is_invalid_and_never_a_store_that_is_away(store, tmp_path, key):
    """An outsider's key must not look like an outage: the stream would wait for ever."""
    uri = store.uri(key)
    for attempt in (store.size(uri), store.download(uri, tmp_path / "copy", limit_bytes=1)):
        with pytest.raises(InvalidInput):
            await attempt
