"""A consumer for ``test_core_poison.py``: its handler ends the process in the way that the event's model names."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from tidegate.contracts.codec import Event
from tidegate.contracts.topics import TRAINING
from tidegate.core.bus import EventProducer
from tidegate.core.in_hand import InHand
from tidegate.core.process import until_signal
from tidegate.core.settings import KafkaSettings
from tidegate.core.streams import consume, create_app

PREFIX, FOLDER = sys.argv[1], Path(sys.argv[2])


async def handle(event: Event) -> None:
    """Handle one event, or end by it."""
    match event.message.model:
        case "raises":
            raise ValueError("a value that nobody thought of")
        case "exits":
            os._exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "slow":
            sys.stdout.write("slow\n")
            sys.stdout.flush()
            await asyncio.Event().wait()
    with (FOLDER / "handled").open("a") as stream:
        stream.write(f"{event.message.model}\n")


async def main() -> None:
    """Consume until a signal comes."""
    kafka = KafkaSettings(topic_prefix=PREFIX, partition_count=1)
    group = f"{PREFIX}.group"
    async with EventProducer(kafka, client_id="test") as producer:
        app = create_app(group, kafka)
        in_hand = InHand(FOLDER, group)
        consume(app, [TRAINING], handle, kafka=kafka, producer=producer, in_hand=in_hand)
        await app.start()
        try:
            await until_signal(app.wait_until_stopped())
        finally:
            await app.stop()


asyncio.run(main())
