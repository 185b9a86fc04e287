"""A gateway that is for some: on the real Envoy, whose listener is replaced under way."""

import asyncio
import json

import pytest

from tidegate.core.errors import InvalidInput
from tidegate.deployer.gateway_callers import read_gateway_callers
from tidegate.deployer.xds.tuning import GatewayCaller

SHOP = GatewayCaller(name="shop", token="0123456789abcdef-shop")
DESK = GatewayCaller(name="desk", token="0123456789abcdef-desk")
DEADLINE_S = 60.0


async def status(world, **headers):
    return (await world.infer(headers={name.replace("_", "-"): text for name, text in headers.items()})).status


async def until(holds):
    async with asyncio.timeout(DEADLINE_S):
        while not await holds():
            await asyncio.sleep(0.05)


async def test_only_callers_in_the_list_are_answered(world):
    upstream = world.upstreams["1.0.0"]
    table = world.table({"1.0.0": 1_000_000})
    await world.apply(table)
    assert await status(world) == 200

    async def refused():
        return await status(world) == 401

    await world.stop_control_plane()
    await world.start_control_plane(table, callers=(SHOP, DESK))
    await until(refused)
    seen = len(upstream.seen)
    for wrong in ("Bearer wrong-0123456789", "Bearer ", "Basic c2hvcDp4", f"Bearer {SHOP.token}x"):
        assert await status(world, authorization=wrong) == 401, wrong
    assert len(upstream.seen) == seen
    for caller in (SHOP, DESK):
        assert await status(world, authorization=f"Bearer {caller.token}") == 200
    # Model servers do not see tokens.
    assert all("authorization" not in headers for _, headers in upstream.seen)

    async def open_again():
        return await status(world) == 200

    await world.stop_control_plane()
    await world.start_control_plane(table)
    await until(open_again)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"callers": []}',
        '{"callers": [{"name": "shop", "token": "short"}]}',
        '{"callers": [{"name": "shop", "token": "with a blank in it"}]}',
        json.dumps({"callers": [{"name": name, "token": SHOP.token} for name in ("shop", "desk")]}),
    ],
)
def test_a_file_that_is_no_list_opens_nothing(tmp_path, text):
    path = tmp_path / "callers.json"
    path.write_text(text)
    with pytest.raises(InvalidInput) as raised:
        read_gateway_callers(path)
    assert raised.value.code == "GATEWAY_CALLERS_UNREADABLE"
    assert SHOP.token not in str(raised.value)


def test_a_file_names_who_may_ask(tmp_path):
    path = tmp_path / "callers.json"
    path.write_text(json.dumps({"callers": [{"name": each.name, "token": each.token} for each in (SHOP, DESK)]}))
    assert read_gateway_callers(path) == (SHOP, DESK)
    assert SHOP.token not in repr(SHOP)
    with pytest.raises(InvalidInput):
        read_gateway_callers(tmp_path / "none")
    assert read_gateway_callers(None) == ()
