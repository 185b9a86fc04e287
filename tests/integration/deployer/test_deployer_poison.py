"""A record that the deployer's decision fails on is set aside after two restarts, and all other models go on."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tidegate.contracts.codec import Event, decode_record
from tidegate.contracts.topics import DEAD_LETTER, ROLLOUT_STATE
from tidegate.core.bus import EventProducer
from tidegate.core.clock import utc_now
from tidegate.core.in_hand import ENDS_MAX
from tidegate.core.kafka_consumer import committed_consumer
from tidegate.core.settings import KafkaSettings
from tidegate.core.streams import EXIT_CODE_UNEXPECTED
from tidegate.stack.ports import free_ports
from tidegate.v1 import events_pb2 as pb
from tidegate.v1.rollout_events_pb2 import RolloutState
from tidegate.v1.values_pb2 import Artifact, Version

DEADLINE_S = 90.0
DEPLOYER = Path(__file__).with_name("poisoned.py")
MODELS = ("before", "poison", "after")


@pytest.fixture
async def start(bus_settings, tmp_path):
    processes = []

    async def started() -> asyncio.subprocess.Process:
        port, gateway_port, nobody = free_ports(3)
        environment = os.environ | {
            "TIDEGATE_KAFKA_BOOTSTRAP": bus_settings.bootstrap,
            "TIDEGATE_KAFKA_TOPIC_PREFIX": bus_settings.topic_prefix,
            "TIDEGATE_KAFKA_PARTITION_COUNT": str(bus_settings.partition_count),
            "TIDEGATE_DEPLOYER_PORT": str(port),
            "TIDEGATE_DEPLOYER_GATEWAY_PORT": str(gateway_port),
            "TIDEGATE_DEPLOYER_MODELHOST": f"127.0.0.1:{nobody}",
            "TIDEGATE_DEPLOYER_DATA_DIR": str(tmp_path / "data"),
        }
        with (tmp_path / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(DEPLOYER), env=environment, stdout=log, stderr=log
            )
        processes.append(process)
        return process

    yield started
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def publish(kafka: KafkaSettings) -> None:
    """Publish a version of each model."""
    async with EventProducer(kafka, client_id="test") as producer:
        for model in MODELS:
            artifact = Artifact(uri="s3://abc/b", digest="sha256:" + 64 * "0", size_bytes=1, format="onnx")
            message = pb.ModelRegistered(model=model, version=Version(major=1), artifact=artifact)
            await producer.publish(
                Event(message=message, id=model, source="test", time=utc_now(), subject=model, correlation_id=model)
            )


async def states(consumer) -> set[str]:
    """Wait for the states of all models but one."""
    found: set[str] = set()
    async with asyncio.timeout(DEADLINE_S):
        while found != set(MODELS) - {"poison"}:
            event = decode_record(await consumer.getone(), received_time=utc_now())
            assert isinstance(event.message, RolloutState)
            found.add(event.message.model)
    return found


async def test_a_record_that_no_decision_survives_is_set_aside(bus_settings, start):
    await publish(bus_settings)
    for _ in range(ENDS_MAX):
        process = await start()
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == EXIT_CODE_UNEXPECTED
    third = await start()
    topics = [topic.full_name(bus_settings.topic_prefix) for topic in (DEAD_LETTER, ROLLOUT_STATE)]
    aside, kept = [committed_consumer(bus_settings, topic, auto_offset_reset="earliest") for topic in topics]
    await asyncio.gather(aside.start(), kept.start())
    try:
        async with asyncio.timeout(DEADLINE_S):
            letter = await aside.getone()
        await states(kept)
    finally:
        await asyncio.gather(aside.stop(), kept.stop())
    error = dict(letter.headers)["tidegate-error"].decode()
    assert letter.key == b"poison"
    assert error.startswith("EVENT_ENDED_PROCESS: ")
    assert "ZeroDivisionError: a decision that nobody thought of" in error
    assert third.returncode is None
