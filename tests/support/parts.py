"""Where Kafka, S3 and PostgreSQL run for the tests: in containers where a Docker engine is, else without any.

TIDEGATE_TEST_PARTS says which: ``containers`` (fail without), ``embedded`` (never ask for an engine), or ``auto``: containers
where an engine answers and has the image or can pull it. KAFKA_IMAGE, S3_IMAGE and POSTGRES_IMAGE name other images than
the compose file's.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tidegate.core.settings import ObjectStoreSettings
from tidegate.stack import ports
from tidegate.stack.child import running
from tidegate.stack.kafka import broker_properties
from tidegate.stack.object_store import Credentials, ensure_credentials, prepare_object_store
from tidegate.stack.readiness import answers, kafka_ready, object_store_ready

VARIABLE = "TIDEGATE_TEST_PARTS"
MODES = ("auto", "containers", "embedded")
ENGINE_ANSWER_S = 3
READY_S = 240.0
ROOT = Path(__file__).parents[2]
# What ran where, for the summary at the end.
places: dict[str, str] = {}


def mode() -> str:
    """Return what TIDEGATE_TEST_PARTS says."""
    found = os.environ.get(VARIABLE, "auto")
    if found not in MODES:
        raise ValueError(f"{VARIABLE} is {found!r}, expected one of {', '.join(MODES)}")
    return found


@cache
def engine() -> Any | None:
    """Return a client of the Docker engine; None if there is none, or none is wanted."""
    if mode() == "embedded":
        return None
    import docker

    try:
        client = docker.from_env(timeout=ENGINE_ANSWER_S)
        client.ping()
    except docker.errors.DockerException:
        if mode() == "containers":
            raise
        return None
    return docker.from_env()


def intent() -> str:
    """Return, in one line, what the tests will use."""
    if engine() is None:
        return f"embedded Kafka and S3, PostgreSQL if it is installed ({VARIABLE}={mode()}: no Docker engine asked or found)"
    return f"Kafka, S3 and PostgreSQL in containers where their images can be had ({VARIABLE}={mode()})"


@cache
def image(variable: str) -> str | None:
    """Return the image that ``variable`` or the compose file names, if the engine has it or can pull it."""
    client = engine()
    if client is None:
        return None
    import docker

    names = dict(re.findall(r"\$\{(\w+_IMAGE):-([^}]+)\}", (ROOT / "docker-compose.yml").read_text()))
    name = os.environ.get(variable, names[variable])
    for attempt in (client.images.get, client.images.pull):
        try:
            attempt(name)
        except docker.errors.DockerException as error:
            failure = error
        else:
            return name
    if mode() == "containers":
        raise failure
    return None


def use(part: str, place: str) -> None:
    """Note where ``part`` runs."""
    places[part] = place


@contextmanager
def container(
    name: str, *, port: int, host_port: int, environment: Mapping[str, str], command: str, is_ready: Callable[[], bool]
) -> Iterator[None]:
    """Run one container while the block runs, its ``port`` on loopback at ``host_port``; ready at its start."""
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    # Its helper that clears up after killed test runs is one more image, which may not be had.
    testcontainers_config.ryuk_disabled = True
    made = DockerContainer(name)
    made.ports = {f"{port}/tcp": ("127.0.0.1", host_port)}
    for variable, value in environment.items():
        made = made.with_env(variable, value)
    with made.with_command(command) if command else made:
        deadline = time.monotonic() + READY_S
        while not is_ready():
            assert time.monotonic() < deadline, b"".join(made.get_logs()).decode(errors="replace")[-3000:]
            time.sleep(0.1)
        yield


def container_broker_settings(host_port: int) -> dict[str, str]:
    """Return the embedded broker's settings for inside a container whose port 9092 is ``host_port`` outside.

    The broker writes transaction markers to itself by a listener of its own: the port outside is not there inside.
    """
    lines = broker_properties(log_dir=Path("/var/lib/kafka/data"), port=9092, controller_port=9093).splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#")) | {
        "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093,INTERNAL://:9094",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{host_port},INTERNAL://127.0.0.1:9094",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT",
        "inter.broker.listener.name": "INTERNAL",
    }


@contextmanager
def kafka_container(name: str) -> Iterator[str]:
    """Run a broker with the embedded stack's own settings; yield ``host:port``."""
    (host_port,) = ports.free_ports(1)
    settings = container_broker_settings(host_port)
    variables = {"KAFKA_" + key.upper().replace(".", "_"): value for key, value in settings.items()}
    bootstrap = f"127.0.0.1:{host_port}"
    with container(
        name,
        port=9092,
        host_port=host_port,
        environment=variables,
        command="",
        is_ready=lambda: kafka_ready(bootstrap),
    ):
        yield bootstrap


@contextmanager
def minio_container(name: str) -> Iterator[ObjectStoreSettings]:
    """Run MinIO; yield where it is and its keys."""
    (host_port,) = ports.free_ports(1)
    keys = Credentials(access_key="tidegate-test", secret_key="tidegate-test-secret")
    settings = store_at(host_port, keys)
    with container(
        name,
        port=9000,
        host_port=host_port,
        environment={"MINIO_ROOT_USER": keys.access_key, "MINIO_ROOT_PASSWORD": keys.secret_key},
        command="server /data",
        is_ready=lambda: object_store_ready(settings.endpoint, keys),
    ):
        yield settings


@contextmanager
def postgres_container(name: str) -> Iterator[str]:
    """Run PostgreSQL; yield the URL of its first database."""
    (host_port,) = ports.free_ports(1)
    url = f"postgresql+psycopg://postgres:postgres@127.0.0.1:{host_port}/postgres"
    with container(
        name,
        port=5432,
        host_port=host_port,
        environment={"POSTGRES_PASSWORD": "postgres"},
        command="",
        is_ready=lambda: postgres_answers(url),
    ):
        yield url


def store_at(port: int, keys: Credentials) -> ObjectStoreSettings:
    """Return the settings of the store on loopback at ``port``."""
    return ObjectStoreSettings(endpoint=f"127.0.0.1:{port}", access_key=keys.access_key, secret_key=keys.secret_key)


@contextmanager
def embedded_object_store(folder: Path) -> Iterator[ObjectStoreSettings]:
    """Run the embedded stack's S3 gateway with its data in ``folder``."""

    (port,) = ports.free_ports(1)
    keys = ensure_credentials(folder / "credentials.json")
    program = prepare_object_store(folder, port=port, credentials=keys)
    endpoint = f"127.0.0.1:{port}"
    with running(program, log=folder / "object-store.out", is_ready=lambda: object_store_ready(endpoint, keys)):
        yield store_at(port, keys)


def with_own_bucket(server: ObjectStoreSettings) -> ObjectStoreSettings:
    """Return the settings of ``server`` with a new bucket."""
    from minio import Minio

    settings = server.model_copy(update={"bucket": f"test-{uuid.uuid4().hex[:12]}"})
    client = Minio(
        settings.endpoint,
        access_key=settings.access_key.get_secret_value(),
        secret_key=settings.secret_key.get_secret_value(),
        secure=False,
        region="us-east-1",
    )
    client.make_bucket(bucket_name=settings.bucket)
    return settings


def postgres_answers(url: str) -> bool:
    """Say whether the database lets us in."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import OperationalError
    from sqlalchemy.pool import NullPool

    host, _, port = url.rpartition("@")[2].partition("/")[0].rpartition(":")
    if not answers(host, int(port)):
        return False
    try:
        with create_engine(url, poolclass=NullPool).connect() as connection:
            connection.execute(text("SELECT 1"))
    except OperationalError:
        return False
    return True
