"""``python -m tidegate.validator``."""

from __future__ import annotations

import asyncio

import structlog

from tidegate.contracts.principals import VALIDATOR_PRINCIPAL
from tidegate.contracts.topics import REGISTRY
from tidegate.core.bus import EventProducer, create_topics
from tidegate.core.grpc_server import GrpcServer
from tidegate.core.in_hand import InHand
from tidegate.core.object_store import ObjectStore
from tidegate.core.process import run, until_signal
from tidegate.core.settings import KafkaSettings, ObjectStoreSettings
from tidegate.core.streams import consume, create_app, retrying
from tidegate.core.telemetry import start_telemetry
from tidegate.validator.agents import ValidationAgent
from tidegate.validator.history import restore
from tidegate.validator.sandbox import Sandbox
from tidegate.validator.service import create_server
from tidegate.validator.settings import ValidatorSettings
from tidegate.validator.store import ModelMemory
from tidegate.validator.trial import Trial

log = structlog.get_logger(__name__)


async def serve() -> None:
    """Put the parts together and run until a signal asks to stop."""
    settings, kafka = ValidatorSettings(), KafkaSettings()
    start_telemetry("validator", settings)
    server = create_server()
    await server.start(settings.host, settings.port)
    try:
        await until_signal(_work(settings, kafka, server))
    finally:
        await server.stop()


async def _work(settings: ValidatorSettings, kafka: KafkaSettings, server: GrpcServer) -> None:
    store, sandbox, memory = ObjectStore(ObjectStoreSettings()), Sandbox(settings.modelhost), ModelMemory()
    await retrying(store.ensure_bucket, what="object store")
    await retrying(sandbox.clear, what="model host")
    await retrying(lambda: _topics(kafka), what="topics")
    await retrying(lambda: restore(memory, kafka=kafka, store=store), what="history")
    async with EventProducer(kafka, client_id="tidegate-validator") as producer:
        trial = Trial(settings=settings, store=store, sandbox=sandbox, memory=memory)
        agent = ValidationAgent(trial=trial, store=store, producer=producer, memory=memory)
        group = VALIDATOR_PRINCIPAL.consumer_group(kafka.topic_prefix)
        app, in_hand = create_app(group, kafka), InHand(settings.data_dir, group)
        consume(app, [REGISTRY], agent.handle, kafka=kafka, producer=producer, in_hand=in_hand)
        await app.start()
        try:
            await server.set_ready()
            log.info("consuming", port=server.port)
            await app.wait_until_stopped()
        finally:
            await app.stop()
            await sandbox.close()


async def _topics(kafka: KafkaSettings) -> None:
    await asyncio.to_thread(create_topics, kafka)


def main() -> None:
    """Run the validator."""
    run(serve)


if __name__ == "__main__":
    main()
