"""The cache of artifacts against the real object store."""

from __future__ import annotations

import asyncio
import os

import pytest

from tidegate.core.errors import InvalidInput, NotFound
from tidegate.core.object_store import ObjectStore, digest_of_bytes
from tidegate.modelhost.artifacts import ArtifactCache


@pytest.fixture
def store(store_settings):
    return ObjectStore(store_settings)


@pytest.fixture
def cache(tmp_path, store):
    cache = ArtifactCache(directory=tmp_path, store=store, artifact_bytes_max=1000, cache_bytes_max=250)
    cache.clean()
    return cache


async def put(store, data: bytes) -> dict[str, str]:
    digest = digest_of_bytes(data)
    return {"uri": await store.put_bytes(digest.removeprefix("sha256:"), data), "digest": digest}


async def test_many_who_want_the_same_artifact_get_the_same_file(cache, store):
    named = await put(store, b"a" * 100)
    paths = await asyncio.gather(*(cache.fetch(**named, in_use=set()) for _ in range(8)))
    assert len({*paths}) == 1
    assert paths[0].read_bytes() == b"a" * 100


async def test_a_file_that_was_changed_on_disk_is_fetched_again(cache, store):
    named = await put(store, b"a" * 100)
    path = await cache.fetch(**named, in_use=set())
    path.chmod(0o644)
    path.write_bytes(b"b" * 100)
    assert (await cache.fetch(**named, in_use=set())).read_bytes() == b"a" * 100


async def test_the_artifact_unused_for_longest_goes_first_and_one_in_use_never(cache, store):
    named = [await put(store, letter * 100) for letter in (b"a", b"b", b"c")]
    in_use = {named[0]["digest"]}
    paths = []
    for age, item in enumerate(named):
        paths.append(await cache.fetch(**item, in_use=in_use))
        os.utime(paths[-1], (age, age))
    await cache.fetch(**named[2], in_use=in_use)
    assert [path.exists() for path in paths] == [True, False, True]


async def test_a_too_long_and_an_absent_artifact_are_refused(cache, store):
    with pytest.raises(InvalidInput) as caught:
        await cache.fetch(**await put(store, b"a" * 1001), in_use=set())
    assert caught.value.code == "OBJECT_TOO_LARGE"
    with pytest.raises(NotFound):
        await cache.fetch(uri=store.uri("absent"), digest="sha256:" + "0" * 64, in_use=set())


async def test_what_a_killed_host_had_begun_to_fetch_is_removed(cache, tmp_path):
    left = tmp_path / "sha256" / "00.fetched.partial"
    left.touch()
    cache.clean()
    assert not left.exists()
