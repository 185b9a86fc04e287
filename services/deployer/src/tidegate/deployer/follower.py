"""Follows what deployers have committed: route tables for every proxy, steps and states for the read model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from tidegate.contracts.codec import Event, InvalidEvent, decode_record
from tidegate.contracts.topics import ROLLOUT_STATE, ROLLOUTS, ROUTES
from tidegate.core.clock import utc_now
from tidegate.core.errors import Unavailable
from tidegate.core.kafka_access import explain
from tidegate.core.kafka_consumer import committed_consumer
from tidegate.core.settings import KafkaSettings
from tidegate.deployer.agents import ApplyRoute
from tidegate.deployer.store import RolloutBook
from tidegate.v1.rollout_events_pb2 import RetirementChanged, RolloutState, RolloutStep, RouteTable

POLL_MS: Final = 500
# The client can wait for ever where a broker dies at the wrong moment.
CATCH_UP_WITHIN_S: Final = 120.0

log = structlog.get_logger(__name__)


class Follower:
    """Reads the topics from their beginning, then on and on."""

    def __init__(self, *, kafka: KafkaSettings, book: RolloutBook, apply_route: ApplyRoute) -> None:
        self._kafka = kafka
        self._book = book
        self._apply_route = apply_route
        self._tables: dict[str, RouteTable] = {}
        self._consumer = committed_consumer(kafka, auto_offset_reset="earliest", fetch_max_wait_ms=100)

    async def catch_up(self) -> None:
        """Read to the end of today, then apply the newest table of each model at once.

        Raises:
            Unavailable: The broker is away, or dies meanwhile.

        """
        try:
            async with asyncio.timeout(CATCH_UP_WITHIN_S):
                await self._read_to_the_end()
        except KafkaError as error:
            raise await explain(self._kafka, error) from error
        except TimeoutError as error:
            message = f"the routes were not read in {CATCH_UP_WITHIN_S:.0f} s"
            raise Unavailable(message, code="BROKER_UNAVAILABLE") from error
        for table in self._tables.values():
            self._apply_route(table, None)
        self._tables.clear()

    async def _read_to_the_end(self) -> None:
        await self._consumer.start()
        places = [
            TopicPartition(topic.full_name(self._kafka.topic_prefix), partition)
            for topic in (ROUTES, ROLLOUTS, ROLLOUT_STATE)
            for partition in range(self._kafka.partition_count)
        ]
        self._consumer.assign(places)
        await self._consumer.seek_to_beginning(*places)
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(places)
        while await self._is_behind(ends):
            for event in await self._events():
                if isinstance(event.message, RouteTable):
                    self._tables[event.message.model] = event.message
                else:
                    self._follow(event)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            for event in await self._events():
                self._follow(event)

    async def stop(self) -> None:
        """Stop following."""
        await self._consumer.stop()

    def _follow(self, event: Event) -> None:
        match event.message:
            case RouteTable():
                self._apply_route(event.message, None)
            case RolloutStep():
                self._book.record(event.message, event.time, cause_id=event.causation_id)
            case RetirementChanged():
                self._book.record_retirement(event.message, cause_id=event.causation_id)
            case RolloutState():
                self._book.remember(event.message)

    async def _is_behind(self, ends: dict[TopicPartition, int]) -> bool:
        positions = await asyncio.gather(*(self._consumer.position(place) for place in ends))
        return any(position < end for position, end in zip(positions, ends.values(), strict=True))

    async def _events(self) -> list[Event]:
        batches: dict[TopicPartition, list[Any]] = await self._consumer.getmany(timeout_ms=POLL_MS)
        return [event for records in batches.values() for event in _decoded(records)]


def _decoded(records: list[Any]) -> Iterator[Event]:
    """Yield the events; what is none is passed over, since these topics are read again from their beginning."""
    for record in records:
        try:
            yield decode_record(record, received_time=utc_now())
        except InvalidEvent as error:
            origin = f"{record.topic}/{record.partition}/{record.offset}"
            log.warning("no event of a deployer, passed over", origin=origin, code=error.code, error=str(error))
