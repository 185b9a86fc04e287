import asyncio
import contextlib
from collections import Counter

import pytest

from tidegate.core.clock import utc_now
from tidegate.core.errors import InvalidInput
from tidegate.deployer.xds import fleet as fleet_module
from tidegate.v1.rollout_events_pb2 import RouteTable

MILLION = 1_000_000


@contextlib.asynccontextmanager
async def load(world, *, clients=4):
    """Send requests all the time; yield the count of each outcome."""
    outcomes = Counter()
    stop = asyncio.Event()

    async def client():
        while not stop.is_set():
            try:
                outcomes[(await world.infer()).status] += 1
            except (ConnectionError, OSError) as error:
                outcomes[repr(error)] += 1

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    try:
        yield outcomes
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def test_weight_changes_and_version_changes_under_load_lose_no_request(world):
    for version in ("1.2.0", "1.3.0", "1.4.0"):
        await world.add_upstream(version)
    async with load(world) as outcomes:
        stable = "1.0.0"
        for candidate in ("1.1.0", "1.2.0", "1.3.0", "1.4.0"):
            for weight in (0, 10_000, 100_000, 250_000, 500_000, 750_000, MILLION):
                await world.apply(world.table({stable: MILLION - weight, candidate: weight}, fallback=stable))
            await world.apply(world.table({candidate: MILLION}))
            stable = candidate
        held = outcomes.total()
        await world.wait_until(lambda: outcomes.total() > held + 100)
    assert set(outcomes) == {200}
    # What no route names any more goes when requests of earlier routes are over.
    session = world.fleet._proxies["gateway-1"].session
    await world.wait_until(lambda: set(session.state.clusters) == {"churn@1.4.0"})


async def test_failing_candidate_under_load_is_rolled_back_without_a_failure(world):
    world.upstreams["1.1.0"].status = 500
    async with load(world) as outcomes:
        for weight in (10_000, 500_000, 0):
            await world.apply(world.table({"1.0.0": MILLION - weight, "1.1.0": weight}, fallback="1.0.0"))
            held = outcomes.total()
            await world.wait_until(lambda held=held: outcomes.total() > held + 100)
        await world.apply(world.table({"1.0.0": MILLION}))
    assert set(outcomes) == {200}


async def test_moving_versions_to_tcp_loses_no_request(world):
    async with load(world) as outcomes:
        for version in ("1.0.0", "1.1.0"):
            table = world.table({version: MILLION})
            table.lines[0].arms[0].endpoints[:] = [f"127.0.0.1:{await world.upstreams[version].start_tcp()}"]
            await world.apply(table)
            held = outcomes.total()
            await world.wait_until(lambda held=held: outcomes.total() > held + 100)
    assert set(outcomes) == {200}
    assert (await world.infer()).headers["x-tidegate-version"] == "1.1.0"


async def test_candidate_whose_name_is_not_resolved_yet_costs_no_client_anything(world):
    port = await world.upstreams["1.1.0"].start_tcp()
    async with load(world) as outcomes:
        for _ in range(5):
            table = world.table({"1.0.0": 0, "1.1.0": MILLION}, fallback="1.0.0")
            table.lines[0].arms[1].endpoints[:] = [f"localhost:{port}"]
            await world.apply(table)
            held = len(world.upstreams["1.1.0"].seen)
            await world.wait_until(lambda held=held: len(world.upstreams["1.1.0"].seen) > held + 20)
            await world.apply(world.table({"1.0.0": MILLION}))
    assert set(outcomes) == {200}


async def test_restoring_control_plane_sends_nothing_until_it_knows_all_tables(world):
    churn = world.table({"1.0.0": MILLION})
    fraud = world.table({"1.1.0": MILLION}, model="fraud")
    await world.apply(churn)
    await world.apply(fraud)
    async with load(world) as outcomes:
        await world.stop_control_plane()
        await world.start_control_plane(fraud, is_restoring=True)
        await world.wait_until(lambda: world.fleet.node_ids == ("gateway-1",))
        held = outcomes.total()
        await world.wait_until(lambda: outcomes.total() > held + 100)
        world.fleet.apply(churn, decided_time=utc_now())
        world.fleet.restored()
        await world.applied(churn)
        await world.applied(fraud)
    assert set(outcomes) == {200}
    assert (await world.infer(model="fraud")).status == 200


async def test_traffic_goes_on_without_control_plane_and_new_one_is_heard(world):
    same = world.table({"1.0.0": MILLION // 2, "1.1.0": MILLION // 2}, fallback="1.0.0")
    await world.apply(same)
    async with load(world) as outcomes:
        await world.stop_control_plane()
        held = outcomes.total()
        await world.wait_until(lambda: outcomes.total() > held + 300)
        await world.start_control_plane(same)
        report = await world.applied(same)
        assert [*report.applied] == ["gateway-1"]
        await world.apply(world.table({"1.0.0": MILLION, "1.1.0": 0}, fallback="1.0.0"))
        held = outcomes.total()
        await world.wait_until(lambda: outcomes.total() > held + 100)
    assert set(outcomes) == {200}
    assert (await world.infer()).headers["x-tidegate-version"] == "1.0.0"


async def test_restarted_control_plane_that_knows_no_table_leaves_proxies_alone(world):
    await world.stop_control_plane()
    await world.start_control_plane()
    await world.wait_until(lambda: world.fleet.node_ids == ("gateway-1",))
    assert [(await world.infer()).status for _ in range(5)] == [200] * 5
    report = await world.apply(world.table({"1.1.0": MILLION}))
    assert [*report.applied] == ["gateway-1"]
    assert (await world.infer()).headers["x-tidegate-version"] == "1.1.0"


async def test_bad_table_is_refused_before_any_proxy_and_other_models_go_on(world):
    bad = world.table({"1.0.0": MILLION - 1})
    with pytest.raises(InvalidInput, match="weights sum to 999999, expected 1000000") as refusal:
        world.fleet.apply(bad, decided_time=utc_now())
    assert refusal.value.code == "ROUTE_TABLE_INVALID"
    await world.apply(world.table({"1.1.0": MILLION}, model="fraud"))
    assert (await world.infer(model="fraud")).status == 200
    assert (await world.infer()).status == 200
    assert world.refused == []


async def test_model_that_envoy_refuses_goes_back_alone(world, monkeypatch):
    monkeypatch.setattr("tidegate.deployer.xds.resources.check_table", lambda table: None)
    monkeypatch.setattr("tidegate.deployer.xds.checks._PORT_MAX", 99_999)
    bad = world.table({"1.1.0": MILLION})
    bad.lines[0].arms[0].endpoints[:] = ["127.0.0.1:70000"]
    good = world.table({"1.1.0": MILLION}, model="fraud")
    world.fleet.apply(bad, decided_time=utc_now())
    world.fleet.apply(good, decided_time=utc_now())
    await world.applied(good)
    await world.wait_until(lambda: world.refused)
    assert world.refused[0][:3] == ("churn", 1, bad.revision)
    assert (await world.infer()).headers["x-tidegate-version"] == "1.0.0"
    assert (await world.infer(model="fraud")).headers["x-tidegate-version"] == "1.1.0"
    await world.apply(world.table({"1.1.0": MILLION}))
    assert (await world.infer()).headers["x-tidegate-version"] == "1.1.0"


async def test_older_table_is_ignored(world):
    old = world.table({"1.1.0": MILLION})
    new = world.table({"1.0.0": MILLION})
    await world.apply(new)
    assert not world.fleet.apply(old, decided_time=utc_now())
    assert not world.fleet.apply(new, decided_time=utc_now())
    epoch = RouteTable(model="churn", epoch=2, revision=1, lines=old.lines)
    assert world.fleet.apply(epoch, decided_time=utc_now())
    await world.applied(epoch)
    assert (await world.infer()).headers["x-tidegate-version"] == "1.1.0"


async def test_missing_proxy_is_named_and_heard_again(world):
    await world.stop_proxy()
    await world.wait_until(lambda: world.fleet._proxies["gateway-1"].session is None)
    world.fleet._applied_wait_s = 0.1
    table = world.table({"1.1.0": MILLION})
    world.fleet.apply(table, decided_time=utc_now())
    await world.wait_until(lambda: world.reports[-1].revision == table.revision)
    assert (world.reports[-1].complete, [*world.reports[-1].missing]) == (False, ["gateway-1"])
    await world.start_proxy()
    report = await world.applied(table)
    assert (report.complete, [*report.applied], [*report.missing]) == (True, ["gateway-1"], [])
    assert (await world.infer()).headers["x-tidegate-version"] == "1.1.0"


async def test_change_is_complete_when_all_proxies_have_it(world):
    await world.start_proxy("gateway-2")
    await world.wait_until(lambda: world.fleet.node_ids == ("gateway-1", "gateway-2"))
    report = await world.apply(world.table({"1.0.0": MILLION // 2, "1.1.0": MILLION // 2}, fallback="1.0.0"))
    assert [*report.applied] == ["gateway-1", "gateway-2"]
    async with load(world) as outcomes:
        for weight in (100_000, 200_000, MILLION, 0):
            await world.apply(world.table({"1.0.0": MILLION - weight, "1.1.0": weight}, fallback="1.0.0"))
    assert set(outcomes) == {200}


async def test_proxy_that_stays_away_is_dropped_after_its_lease(world):
    world.fleet._lease_s = 0.05
    world.fleet._applied_wait_s = 0.01
    await world.stop_proxy()
    await world.wait_until(lambda: not world.fleet.node_ids)
    table = world.table({"1.1.0": MILLION})
    world.fleet.apply(table, decided_time=utc_now())
    await world.wait_until(lambda: world.reports[-1].revision == table.revision)
    assert (world.reports[-1].complete, [*world.reports[-1].applied], [*world.reports[-1].missing]) == (False, [], [])


def test_lease_is_that_of_the_contract():
    assert fleet_module.LEASE_S == 60


async def test_request_under_way_still_falls_back_after_its_candidate_is_gone(world):
    world.upstreams["1.1.0"].status = -1  # hangs: the first attempt ends after the shift
    await world.apply(world.table({"1.0.0": 0, "1.1.0": MILLION}, fallback="1.0.0"))
    under_way = asyncio.create_task(world.infer())
    await world.wait_until(lambda: world.upstreams["1.1.0"].seen)
    await world.apply(world.table({"1.0.0": MILLION}))
    answer = await under_way
    assert (answer.status, answer.headers.get("x-tidegate-version")) == (200, "1.0.0"), answer.body
