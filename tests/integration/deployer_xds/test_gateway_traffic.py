import asyncio
import json
from collections import Counter

import pytest

from tidegate.v1.rollout_events_pb2 import RouteLine

MILLION = 1_000_000


async def shares(world, count=200):
    answers = [await world.infer() for _ in range(count)]
    assert {answer.status for answer in answers} == {200}
    return Counter(answer.headers["x-tidegate-version"] for answer in answers)


async def test_weights_split_the_traffic(world):
    assert await shares(world, 20) == {"1.0.0": 20}
    await world.apply(world.table({"1.0.0": MILLION // 2, "1.1.0": MILLION // 2}, fallback="1.0.0"))
    half = await shares(world, 400)
    assert 130 < half["1.1.0"] < 270  # 7 standard deviations
    await world.apply(world.table({"1.0.0": 0, "1.1.0": MILLION}, fallback="1.0.0"))
    assert await shares(world, 20) == {"1.1.0": 20}


async def test_unit_keeps_its_version_and_growing_weight_moves_nobody_back(world):
    units = [f"user-{number}" for number in range(150)]

    async def versions(weight):
        table = world.table({"1.0.0": MILLION - weight, "1.1.0": weight}, fallback="1.0.0")
        table.lines[0].assignment = RouteLine.ASSIGNMENT_UNIT
        table.lines[0].salt = "churn-1.1.0-0badcafe"
        await world.apply(table)
        answers = {unit: await world.infer(headers={"x-tidegate-unit": unit}) for unit in units}
        return {unit: answer.headers["x-tidegate-version"] for unit, answer in answers.items()}

    fifth = await versions(200_000)
    assert fifth == await versions(200_000)
    half = await versions(500_000)
    moved = {unit for unit in units if half[unit] == "1.1.0"}
    assert {unit for unit in units if fifth[unit] == "1.1.0"} < moved
    assert len(moved) < len(units)


@pytest.mark.parametrize("status", [500, 503, 400, 422, 302, 0])
async def test_failing_candidate_costs_no_client_anything_and_its_failures_are_logged(world, status):
    world.upstreams["1.1.0"].status = status
    await world.apply(world.table({"1.0.0": MILLION // 2, "1.1.0": MILLION // 2}, fallback="1.0.0"))
    assert await shares(world) == {"1.0.0": 200}
    await world.wait_until(
        lambda: (
            sum(count for (arm, cluster, _), count in world.sink.attempts().items() if cluster[-5:] == "1.0.0" and arm)
            == 200
        )
    )
    attempts = world.sink.attempts()
    failed = attempts["1.1.0", "churn@1.1.0", status]
    assert failed > 50
    assert attempts["1.1.0", "churn@1.0.0", 200] == failed
    assert attempts["1.0.0", "churn@1.0.0", 200] == 200 - failed


async def test_concurrent_requests_to_failing_candidate_all_fall_back(world):
    world.upstreams["1.1.0"].status = 500
    await world.apply(world.table({"1.0.0": 0, "1.1.0": MILLION}, fallback="1.0.0"))
    answers = await asyncio.gather(*(world.infer() for _ in range(150)))
    assert Counter(answer.status for answer in answers) == {200: 150}


async def test_hanging_candidate_is_given_up_and_stable_answers(world):
    world.upstreams["1.1.0"].status = -1
    await world.apply(world.table({"1.0.0": 0, "1.1.0": MILLION}, fallback="1.0.0"))
    answers = await asyncio.gather(*(world.infer() for _ in range(5)))
    assert {(answer.status, answer.headers["x-tidegate-version"]) for answer in answers} == {(200, "1.0.0")}
    await world.wait_until(lambda: len(world.sink.entries) >= 10)
    timeouts = [entry for entry in world.sink.entries if entry.common_properties.upstream_cluster == "churn@1.1.0"]
    assert all(entry.common_properties.response_flags.upstream_request_timeout for entry in timeouts)
    assert all(not entry.response.HasField("response_code") for entry in timeouts)
    assert all(entry.common_properties.duration.ToTimedelta().total_seconds() >= 0.4 for entry in timeouts)


async def test_dead_candidate_costs_no_client_anything(world):
    await world.apply(world.table({"1.0.0": 0, "1.1.0": MILLION, "1.2.0": 0}, fallback="1.0.0"))
    await world.apply(world.table({"1.0.0": 0, "1.2.0": MILLION}, fallback="1.0.0"))
    assert await shares(world, 20) == {"1.0.0": 20}


@pytest.mark.parametrize("status", [400, 404, 422, 500, 503])
async def test_errors_of_stable_are_passed_through_and_not_retried(world, status):
    world.upstreams["1.0.0"].status = status
    await world.apply(world.table({"1.0.0": 999_999, "1.1.0": 1}, fallback="1.0.0"))
    answers = [await world.infer() for _ in range(10)]
    assert Counter((answer.status, answer.headers["x-tidegate-version"]) for answer in answers) == {
        (status, "1.0.0"): 10
    }
    assert len(world.upstreams["1.0.0"].seen) == 10


@pytest.mark.parametrize("with_candidate", [True, False])
async def test_hanging_stable_ends_after_one_attempt(world, with_candidate):
    world.upstreams["1.0.0"].status = -1
    weights = {"1.0.0": 999_999, "1.1.0": 1} if with_candidate else {"1.0.0": MILLION}
    await world.apply(world.table(weights, fallback="1.0.0" if with_candidate else None))
    assert (await world.infer()).status == 504
    assert len(world.upstreams["1.0.0"].seen) == 1


async def test_clients_cannot_speak_for_the_gateway(world):
    forged = {
        "x-request-id": "forged", "x-tidegate-arm": "9.9.9", "x-tidegate-route": "other/1/1", "x-tidegate-anything": "1",
        "X-Tidegate-Version": "9.9.9", "x-tidegate-units": "1", "x-envoy-max-retries": "9", "x-envoy-upstream-rq-timeout-ms": "1",
        "x-tidegate-unit": "u-1", "x-tidegate-context-country": "de", "x-tidegate-preview": "1.1.0",
    }  # fmt: skip
    table = world.table({"1.0.0": MILLION})
    await world.apply(table)
    answer = await world.infer(headers=forged)
    _, headers = world.upstreams["1.0.0"].seen[-1]
    own = {name: value for name, value in headers.items() if name.startswith("x-tidegate-")}
    assert own == {
        "x-tidegate-arm": "1.0.0",
        "x-tidegate-route": f"churn/1/{table.revision}",
        "x-tidegate-unit": "u-1",
        "x-tidegate-context-country": "de",
        "x-tidegate-preview": "1.1.0",
    }
    assert not [name for name in headers if name.startswith("x-envoy-") and name != "x-envoy-external-address"]
    assert headers["x-request-id"] == answer.headers["x-tidegate-prediction-id"] != "forged"
    await world.wait_until(lambda: world.sink.entries)
    entry = world.sink.entries[-1]
    assert entry.request.request_id == answer.headers["x-tidegate-prediction-id"]
    assert dict(entry.request.request_headers) == {
        "x-tidegate-arm": "1.0.0",
        "x-tidegate-route": f"churn/1/{table.revision}",
        "x-tidegate-unit": "u-1",
    }
    assert world.sink.node_ids == {"gateway-1"}


async def test_paths_of_a_model_and_of_the_gateway(world):
    seen = world.upstreams["1.0.0"].seen
    for path, upstream in {
        "/v2/models/churn": "/v2/models/churn",
        "/v2/models/churn/ready": "/v2/models/churn/ready",
        "/v2/models/churn/versions/1": "/v2/models/churn",
        "/v2/models/churn/versions/1/ready": "/v2/models/churn/ready",
    }.items():
        answer = await world.get(path)
        assert (answer.status, answer.headers["x-tidegate-version"], seen[-1][0]) == (200, "1.0.0", upstream)
    assert (await world.infer(path="/versions/1/infer")).status == 200
    assert seen[-1][0] == "/v2/models/churn/infer"
    assert json.loads((await world.get("/v2/health/live")).body) == {"live": True}
    assert json.loads((await world.get("/v2/health/ready")).body) == {"ready": True}
    for path in ("/v2/models/unknown", "/v2/models/unknown/infer", "/v2/models/churn/versions/2/infer", "/other"):
        answer = await world.get(path)
        assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
        assert "no model is served" in json.loads(answer.body)["error"]


async def test_model_without_lines_is_not_found(world):
    table = world.table({"1.0.0": MILLION})
    del table.lines[:]
    await world.apply(table)
    assert (await world.infer()).status == 404
