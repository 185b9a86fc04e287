"""Many writers at once on one model: each gets a number of its own, none is refused."""

from __future__ import annotations

import asyncio

from registrations import evaluation_bytes, training, upload

from tidegate.contracts.names import format_version
from tidegate.registry.registration.turns import Turns
from tidegate.v1 import registry_service_pb2 as api

WRITERS = 32
CALL_S = 120


async def test_writers_at_once_get_consecutive_numbers(any_site):
    site = any_site
    await site.start()
    evaluation = upload(site, "same.parquet", evaluation_bytes(3, noise=1.0))
    messages = [training(site, f"writer {number}") for number in range(WRITERS)]
    for message in messages:
        message.evaluation_uri = evaluation

    async def register(message):
        response = await site.stub.RegisterVersion(api.RegisterVersionRequest(training=message), timeout=CALL_S)
        return format_version(response.version.registered.version)

    numbers = await asyncio.gather(*(register(message) for message in messages))
    assert sorted(numbers, key=lambda number: [int(part) for part in number.split(".")]) == [
        "1.0.0",
        *(f"1.0.{pipeline}" for pipeline in range(1, WRITERS)),
    ]


async def test_a_turn_is_one_for_all_processes(postgres_url):
    from sqlalchemy import create_engine

    engines = [create_engine(postgres_url) for _ in range(2)]
    first, second = (Turns(engine) for engine in engines)
    order = []

    async def wait(turns, name):
        async with turns.of("churn"):
            order.append(name)

    async with first.of("churn"):
        waiting = asyncio.create_task(wait(second, "waits"))
        given_up = asyncio.create_task(wait(second, "gives up"))
        async with second.of("another-model"):
            order.append("another model")
        given_up.cancel()
        await asyncio.wait([given_up])
        order.append("first")
    await waiting
    async with first.of("churn"):
        order.append("again")
    assert order == ["another model", "first", "waits", "again"]
    for engine in engines:
        engine.dispose()


async def test_who_gives_up_while_another_process_has_the_turn_leaves_nothing_locked(postgres_url):
    from sqlalchemy import create_engine

    engine = create_engine(postgres_url)
    first, second = Turns(engine), Turns(engine)

    async def wait():
        async with second.of("churn"):
            raise AssertionError("the turn was another's")

    async with first.of("churn"):
        given_up = asyncio.create_task(wait())
        while not given_up.done() and not second._locks:
            await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert given_up.cancelled()
    async with second.of("churn"):
        pass
    engine.dispose()
