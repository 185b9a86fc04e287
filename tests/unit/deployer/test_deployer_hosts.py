"""A server that is no longer wanted runs on until no request can come to it any more."""

from __future__ import annotations

import grpc
import pytest

from tidegate.deployer.hosts import LiveHost
from tidegate.v1 import modelhost_service_pb2 as pb

RUNNING = {
    "fraud@1.0.0": pb.Server(spec=pb.ServerSpec(server_id="fraud@1.0.0", model="fraud")),
    "other@1.0.0": pb.Server(spec=pb.ServerSpec(server_id="other@1.0.0", model="other")),
}


@pytest.fixture
async def host():
    made = LiveHost(
        channel=grpc.aio.insecure_channel("127.0.0.1:1"),
        runtime="kserve-onnx",
        load_timeout_s=1.0,
        drain_s=60.0,
        wanted=list,
        owns=lambda model: model == "fraud",
        tell=lambda _seen: None,
    )
    yield made
    await made.close()


async def test_it_is_drained_after_the_time_that_requests_may_take(host):
    assert host._drained(RUNNING, []) == []
    host._unwanted_s["fraud@1.0.0"] -= 59.0
    assert host._drained(RUNNING, []) == []
    host._unwanted_s["fraud@1.0.0"] -= 1.0
    assert host._drained(RUNNING, []) == ["fraud@1.0.0"]


async def test_one_that_is_wanted_again_begins_anew(host):
    host._drained(RUNNING, [])
    host._unwanted_s["fraud@1.0.0"] -= 60.0
    assert host._drained(RUNNING, ["fraud@1.0.0"]) == []
    assert host._drained(RUNNING, []) == []
