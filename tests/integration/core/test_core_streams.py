"""Consuming from a real broker: what a group does about topics that its leader could not see when it shared them out."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from tidegate.contracts.codec import Event
from tidegate.contracts.topics import TRAINING
from tidegate.core.bus import EventProducer, create_topics
from tidegate.core.clock import utc_now
from tidegate.core.in_hand import InHand
from tidegate.core.settings import KafkaSettings
from tidegate.core.streams import consume, create_app
from tidegate.v1.events_pb2 import TrainingCompleted

DEADLINE_S = 60.0


async def test_a_group_that_was_given_nothing_gets_its_partitions_once_the_broker_tells_of_them(
    kafka_broker, tmp_path, monkeypatch
):
    # faust makes a folder where it stands.
    monkeypatch.chdir(tmp_path)
    # A broker that is coming up tells of no topics, either; only by luck could a test ask it in that moment.
    settings = KafkaSettings(bootstrap=kafka_broker, topic_prefix=f"t{uuid.uuid4().hex[:12]}", partition_count=2)
    shared_out: asyncio.Queue[int] = asyncio.Queue()
    handled: asyncio.Queue[str] = asyncio.Queue()

    async def assigned(_app: Any, partitions: Any, **_: Any) -> None:
        await shared_out.put(len(partitions))

    async def handle(event: Event) -> None:
        await handled.put(event.id)

    async with EventProducer(settings, client_id="test") as producer:
        app = create_app(f"{settings.topic_prefix}.group", settings)
        in_hand = InHand(tmp_path, "group")
        consume(app, [TRAINING], handle, kafka=settings, producer=producer, in_hand=in_hand)
        app.on_partitions_assigned.connect(assigned, weak=False)
        await app.start()
        try:
            async with asyncio.timeout(DEADLINE_S):
                assert await shared_out.get() == 0
                await asyncio.to_thread(create_topics, settings)
                message = TrainingCompleted(model="fraud")
                await producer.publish(
                    Event(
                        message=message, id="one", source="test", time=utc_now(), subject="fraud", correlation_id="one"
                    )
                )
                assert await handled.get() == "one"
        finally:
            await app.stop()
