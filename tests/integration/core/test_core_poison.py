"""A record that ends its process is set aside after the second time, by whatever it ends it; others are not."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tidegate.contracts.codec import Event
from tidegate.contracts.topics import DEAD_LETTER
from tidegate.core.bus import EventProducer, create_topics
from tidegate.core.clock import utc_now
from tidegate.core.in_hand import ENDS_MAX
from tidegate.core.kafka_consumer import committed_consumer
from tidegate.core.settings import KafkaSettings
from tidegate.v1.events_pb2 import TrainingCompleted

DEADLINE_S = 60.0
CONSUMER = Path(__file__).with_name("poisoned.py")


@pytest.fixture
def kafka(kafka_broker) -> KafkaSettings:
    settings = KafkaSettings(bootstrap=kafka_broker, topic_prefix=f"t{uuid.uuid4().hex[:12]}", partition_count=1)
    create_topics(settings)
    return settings


@pytest.fixture
async def start(kafka, tmp_path) -> AsyncIterator[Callable[[], Awaitable[asyncio.subprocess.Process]]]:
    processes: list[asyncio.subprocess.Process] = []

    async def started() -> asyncio.subprocess.Process:
        with (tmp_path / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(CONSUMER), kafka.topic_prefix, str(tmp_path)),
                env=os.environ | {"TIDEGATE_KAFKA_BOOTSTRAP": kafka.bootstrap},
                cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        processes.append(process)
        return process

    yield started
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def publish(kafka: KafkaSettings, *models: str) -> None:
    async with EventProducer(kafka, client_id="test") as producer:
        for model in models:
            message = TrainingCompleted(model=model)
            await producer.publish(
                Event(message=message, id=model, source="test", time=utc_now(), subject=model, correlation_id=model)
            )


async def ended(process: asyncio.subprocess.Process, number: signal.Signals | None = None) -> int:
    if number is not None:
        process.send_signal(number)
    async with asyncio.timeout(DEADLINE_S):
        return await process.wait()


async def dead_letters(kafka: KafkaSettings, count: int) -> list[tuple[str, str]]:
    """Return origin and error of the first ``count`` dead letters."""
    consumer = committed_consumer(kafka, DEAD_LETTER.full_name(kafka.topic_prefix), auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            found = [dict((await consumer.getone()).headers) for _ in range(count)]
    finally:
        await consumer.stop()
    return [(one["tidegate-origin"].decode(), one["tidegate-error"].decode()) for one in found]


async def handled(folder: Path, models: list[str]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not (folder / "handled").exists() or set(models) - set((folder / "handled").read_text().split()):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "ended_by",
    [
        ("raises", 70, "ValueError: a value that nobody thought of"),
        ("exits", 3, "without a word"),
        ("killed", -signal.SIGKILL, "without a word"),
    ],
)
async def test_what_ends_the_process_twice_is_set_aside(kafka, start, tmp_path, ended_by):
    model, code, why = ended_by
    await publish(kafka, "before", model, "after")
    for _ in range(ENDS_MAX):
        assert await ended(await start()) == code
    third = await start()
    await handled(tmp_path, ["before", "after"])
    ((origin, error),) = await dead_letters(kafka, 1)
    assert origin == f"{kafka.topic_prefix}.training/0/1"
    assert error.startswith("EVENT_ENDED_PROCESS: ")
    assert why in error
    assert await ended(third, signal.SIGTERM) == 0
    assert (tmp_path / "handled").read_text().split()[-1] == "after"


async def test_a_healthy_record_that_is_stopped_again_and_again_is_never_condemned(kafka, start):
    await publish(kafka, "slow")
    # It is not lost, either: a stop in the middle commits nothing.
    for _ in range(ENDS_MAX + 1):
        process = await start()
        async with asyncio.timeout(DEADLINE_S):
            assert await process.stdout.readline() == b"slow\n"
        assert await ended(process, signal.SIGTERM) == 0
