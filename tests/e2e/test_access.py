"""The lock on the whole stack: every port asks who calls, and events say who it was."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from world import World

from tidegate.client import TidegateClient
from tidegate.client.cli import main
from tidegate.contracts.access import Role
from tidegate.core.clock import utc_now
from tidegate.core.errors import PermissionDenied, Unauthenticated
from tidegate.core.policy import policy_from_yaml
from tidegate.core.settings import CallerSettings
from tidegate.stack import record
from tidegate.stack.ports import LOOPBACK
from tidegate.stack.tokens import create_token, revoke_token
from tidegate.v1 import modelhost_service_pb2, modelhost_service_pb2_grpc, registry_service_pb2, rollout_service_pb2
from tidegate.v1.registry_service_pb2_grpc import RegistryServiceStub
from tidegate.v1.rollout_service_pb2_grpc import RolloutServiceStub

pytestmark = pytest.mark.timeout(600)


def lists_models(channel):
    RegistryServiceStub(channel).ListModels(registry_service_pb2.ListModelsRequest(), timeout=20)


def lists_rollouts(channel):
    RolloutServiceStub(channel).ListRollouts(rollout_service_pb2.ListRolloutsRequest(), timeout=20)


def asks_for_routes(channel):
    stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
    next(stub.StreamAggregatedResources(iter([discovery_pb2.DiscoveryRequest()]), timeout=20))


def lies_about_requests(channel):
    stub = als_pb2_grpc.AccessLogServiceStub(channel)
    stub.StreamAccessLogs(iter([als_pb2.StreamAccessLogsMessage()]), timeout=20)


def lists_servers(channel):
    stub = modelhost_service_pb2_grpc.ModelHostServiceStub(channel)
    stub.ListServers(modelhost_service_pb2.ListServersRequest(), timeout=20)


DOORS = {
    "registry": lists_models,
    "deployer": lists_rollouts,
    "deployer xDS": asks_for_routes,
    "monitor": lies_about_requests,
    "modelhost": lists_servers,
    "modelhost_sandbox": lists_servers,
}


@pytest.mark.parametrize("door", DOORS)
def test_no_port_lets_in_whoever_reaches_it(world: World, door):
    ports = record.load(world.stack.layout).ports
    with grpc.insecure_channel(f"{LOOPBACK}:{getattr(ports, door.partition(' ')[0])}") as channel:
        with pytest.raises(grpc.RpcError) as raised:
            DOORS[door](channel)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


def client_as(world: World, name: str, role: Role, **bounds) -> TidegateClient:
    token = create_token(world.stack.layout.tokens_file, name=name, role=role, **bounds)
    return TidegateClient(replace(world.client.settings, caller=CallerSettings(token=token)))


POLICY = policy_from_yaml("model: flight-delay\nrollout: {on_major: {strategy: canary, steps: [1.0], bake_s: 1}}")


def test_a_role_is_what_its_holder_may(world: World):
    with client_as(world, "reader", Role.READER) as reader:
        assert reader.list_models() is not None
        with pytest.raises(PermissionDenied) as raised:
            reader.apply_policy(POLICY)
        assert raised.value.code == "ROLE_INSUFFICIENT"
        revoke_token(world.stack.layout.tokens_file, "reader")
        with pytest.raises(Unauthenticated):
            reader.list_models()
    with client_as(world, "late", Role.ADMIN, expires=utc_now() - timedelta(seconds=1)) as late:
        with pytest.raises(Unauthenticated) as raised:
            late.list_models()
        assert raised.value.code == "TOKEN_EXPIRED"


def test_events_name_who_it_was_and_bound_tokens_touch_no_other_model(world: World):
    with client_as(world, "kim", Role.ADMIN, models="flight") as kim:
        kim.apply_policy(POLICY)
        world.log.wait_for(
            "policy of kim", lambda event: event.type == "PolicyApplied" and event.message.actor == "kim"
        )
        with pytest.raises(PermissionDenied) as raised:
            kim.apply_policy(policy_from_yaml("model: churn"))
        assert raised.value.code == "MODEL_NOT_YOURS"
        with pytest.raises(PermissionDenied):
            kim.get_model("churn")
        assert [model.name for model in kim.list_models()] in ([], ["models/flight-delay"])


def test_the_command_line_says_what_is_wrong(world: World, monkeypatch, capsys):
    token = create_token(world.stack.layout.tokens_file, name="looker", role=Role.READER)
    monkeypatch.setenv("TIDEGATE_TOKEN", token)
    monkeypatch.setattr("sys.argv", ["tidegate", "--stack", str(world.stack.layout.root), "rollback", "flight-delay"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 5
    assert "looker is reader, RollbackModel wants operator" in capsys.readouterr().err
