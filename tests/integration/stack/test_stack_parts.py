"""The real broker and the real object store, as they are used by every other integration test."""

from __future__ import annotations

from tidegate.core.object_store import ObjectStore


async def test_broker_has_the_topics_of_the_prefix(bus_settings):
    from kafka.admin import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=bus_settings.bootstrap)
    try:
        assert f"{bus_settings.topic_prefix}.registry" in set(admin.list_topics())
    finally:
        admin.close()


async def test_object_store_keeps_what_is_put(store_settings):
    store = ObjectStore(store_settings)
    uri = await store.put_bytes("artifacts/one", b"bytes")
    assert await store.read(uri, limit_bytes=100) == b"bytes"
