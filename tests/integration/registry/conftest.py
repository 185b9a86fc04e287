"""The registry as a process, with a real broker and object store."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiokafka import AIOKafkaConsumer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from minio import Minio

from tidegate.contracts.codec import Event, decode
from tidegate.contracts.topics import DEAD_LETTER, POLICIES, REGISTRY
from tidegate.core.bus import EventProducer
from tidegate.core.clock import utc_now
from tidegate.core.settings import KafkaSettings, ObjectStoreSettings
from tidegate.stack.ports import free_ports
from tidegate.v1.registry_service_pb2_grpc import RegistryServiceStub

DEADLINE_S = 120.0


@dataclass
class Site:
    """Where a registry runs, and what it said."""

    kafka: KafkaSettings
    s3: ObjectStoreSettings
    data_dir: Path
    import_dir: Path
    port: int
    producer: EventProducer
    objects: Minio
    stub: Any
    channel: grpc.aio.Channel
    database_url: str = ""
    events: list[Event] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What the registry and its commands are started with."""
        return os.environ | {
            "TIDEGATE_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "TIDEGATE_KAFKA_TOPIC_PREFIX": self.kafka.topic_prefix,
            "TIDEGATE_KAFKA_PARTITION_COUNT": str(self.kafka.partition_count),
            "TIDEGATE_S3_ENDPOINT": self.s3.endpoint,
            "TIDEGATE_S3_ACCESS_KEY": self.s3.access_key.get_secret_value(),
            "TIDEGATE_S3_SECRET_KEY": self.s3.secret_key.get_secret_value(),
            "TIDEGATE_S3_BUCKET": self.s3.bucket,
            "TIDEGATE_REGISTRY_PORT": str(self.port),
            "TIDEGATE_REGISTRY_DATA_DIR": str(self.data_dir),
            "TIDEGATE_REGISTRY_IMPORT_DIR": str(self.import_dir),
            "TIDEGATE_REGISTRY_ARTIFACT_BYTES_MAX": "100000",
            "TIDEGATE_REGISTRY_DATABASE_URL": self.database_url,
        }

    async def start(self) -> None:
        """Start the registry and wait until it serves."""
        with (self.data_dir.parent / "registry.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tidegate.registry", env=self.environment, stderr=log, stdout=log
            )
        await self.until(self.is_serving, what="the registry serves")

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """End the registry by a signal and return its exit code."""
        if self.process is None:
            return 0
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()

    async def is_serving(self) -> bool:
        """Say whether health says SERVING."""
        try:
            answer = await health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.aio.AioRpcError:
            assert self.process is not None
            assert self.process.returncode is None, (self.data_dir.parent / "registry.log").read_text()
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def until(self, holds: Callable[[], Any], *, what: str) -> Any:
        """Wait until ``holds`` gives something true, and return that."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    found = holds()
                    found = await found if asyncio.iscoroutine(found) else found
                    if found:
                        return found
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log = (self.data_dir.parent / "registry.log").read_text()[-4000:]
            pytest.fail(f"not within {DEADLINE_S} s: {what}; seen {[event.type for event in self.events]}\n{log}")

    async def answer_to(self, correlation_id: str) -> Event:
        """Wait for the event of the registry with this correlation id."""
        found: Event = await self.until(
            lambda: next((event for event in self.events if event.correlation_id == correlation_id), None),
            what=f"an answer to {correlation_id}",
        )
        return found

    def stored(self, prefix: str) -> set[str]:
        """Return the keys in the own bucket."""
        listed = self.objects.list_objects(bucket_name=self.s3.bucket, prefix=prefix, recursive=True)
        return {str(one.object_name) for one in listed}


async def _follow(site: Site, consumer: AIOKafkaConsumer) -> None:
    async for message in consumer:
        if message.topic == DEAD_LETTER.full_name(site.kafka.topic_prefix):
            site.set_aside.append(dict(message.headers)["tidegate-error"].decode())
            continue
        event = decode(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            value=message.value,
            headers=message.headers,
            received_time=utc_now(),
        )
        site.events.append(event)


@asynccontextmanager
async def _site(
    kafka: KafkaSettings, s3: ObjectStoreSettings, folder: Path, *, database_url: str = ""
) -> AsyncIterator[Site]:
    import_dir = folder / "imports"
    import_dir.mkdir()
    (port,) = free_ports(1)
    objects = Minio(
        s3.endpoint,
        access_key=s3.access_key.get_secret_value(),
        secret_key=s3.secret_key.get_secret_value(),
        secure=False,
        region="us-east-1",
    )
    consumer = AIOKafkaConsumer(
        *(topic.full_name(kafka.topic_prefix) for topic in (REGISTRY, POLICIES, DEAD_LETTER)),
        bootstrap_servers=kafka.bootstrap,
        auto_offset_reset="earliest",
        group_id=None,
    )
    await consumer.start()
    async with (
        EventProducer(kafka, client_id=f"test-{uuid.uuid4().hex[:8]}") as producer,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        site = Site(
            kafka=kafka,
            s3=s3,
            data_dir=folder / "data",
            import_dir=import_dir,
            port=port,
            producer=producer,
            objects=objects,
            stub=RegistryServiceStub(channel),
            channel=channel,
            database_url=database_url,
        )
        following = asyncio.create_task(_follow(site, consumer))
        try:
            yield site
        finally:
            await site.stop()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await consumer.stop()


@pytest.fixture
async def site(bus_settings: KafkaSettings, store_settings: ObjectStoreSettings, tmp_path: Path) -> AsyncIterator[Site]:
    async with _site(bus_settings, store_settings, tmp_path) as site:
        yield site


@pytest.fixture(params=["sqlite", "postgresql"])
async def any_site(
    request: pytest.FixtureRequest, bus_settings: KafkaSettings, store_settings: ObjectStoreSettings, tmp_path: Path
) -> AsyncIterator[Site]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""
    async with _site(bus_settings, store_settings, tmp_path, database_url=url) as site:
        yield site
