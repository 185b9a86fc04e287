"""A deployer before a model host without room: it says what waits, and starts it as soon as a server has gone."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import grpc

from tidegate.deployer.hosts import LiveHost, Wanted
from tidegate.deployer.state import KnownVersion, Number

FIRST, SECOND = Number(1, 0, 0), Number(1, 1, 0)


@asynccontextmanager
async def keeping(host, wanted, seen):
    """Keep the host in step with ``wanted``, as the deployer's process does."""
    live = LiveHost(
        channel=grpc.aio.insecure_channel(f"127.0.0.1:{host.port}"),
        runtime="sleeper",
        load_timeout_s=60.0,
        drain_s=0.0,
        wanted=lambda: list(wanted),
        owns=lambda model: model == "twice",
        tell=seen.append,
    )
    running = asyncio.create_task(live.run())
    try:
        yield live
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await live.close()


async def test_a_server_without_room_waits_and_starts_when_another_has_gone(host, make_spec):
    await host.start(sandbox="limits", servers_max="1")
    artifact = (await make_spec()).artifact
    file = {"uri": artifact.uri, "digest": artifact.digest, "size_bytes": 0, "format": "onnx"}
    first, second = (
        Wanted(model="twice", version=KnownVersion(number=number, **file), has_traffic=number == FIRST)
        for number in (FIRST, SECOND)
    )
    wanted, seen = [second, first], []
    async with keeping(host, wanted, seen) as live:

        async def is_waiting():
            return any(one.number == SECOND and one.waiting for one in seen)

        await host.until(is_waiting)
        (told,) = {one.waiting for one in seen if one.waiting}
        assert told == "the model host runs 1 of 1 servers"
        assert not any(one.failure for one in seen)
        assert await host.get("twice@1.0.0") is not None
        wanted.remove(first)
        live.wake()

        async def has_room():
            return await host.get("twice@1.1.0")

        await host.until(has_room)
    assert await host.get("twice@1.0.0") is None
