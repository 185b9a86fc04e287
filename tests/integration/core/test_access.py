"""Every call of every server, by every kind of caller, over real gRPC: who is let in is what the table says."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
import trustme
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.discovery.v3 import ads_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status
from prometheus_client import REGISTRY

from tidegate.contracts.access import ACCESS, Role, Scope
from tidegate.core import guard
from tidegate.core.callers import current_caller, digest_of_token
from tidegate.core.channels import open_aio_channel
from tidegate.core.grpc_server import GrpcServer
from tidegate.core.settings import AccessSettings, CallerSettings
from tidegate.v1 import modelhost_service_pb2, registry_service_pb2, rollout_service_pb2

SERVICES = tuple(
    service
    for file in (
        registry_service_pb2,
        rollout_service_pb2,
        modelhost_service_pb2,
        als_pb2,
        ads_pb2,
        health_pb2,
        reflection_pb2,
    )
    for service in file.DESCRIPTOR.services_by_name.values()
)
METHODS = {f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}
TOKENS = {role.value: {"name": f"a-{role.value}", "role": role.value} for role in Role} | {
    "bound": {"name": "bound", "role": "admin", "models": "churn"},
    "over": {"name": "over", "role": "admin", "expires": (datetime.now(UTC) - timedelta(days=1)).isoformat()},
    "soon": {"name": "soon", "role": "reader", "expires": (datetime.now(UTC) + timedelta(days=1)).isoformat()},
}


def tokens_file(tokens=TOKENS) -> str:
    return json.dumps({"tokens": [{**entry, "sha256": digest_of_token(token)} for token, entry in tokens.items()]})


class Everything(grpc.GenericRpcHandler):
    """Answers every call of the product's protos with an empty response, and remembers who called."""

    def __init__(self) -> None:
        self.callers: list[tuple[str, str]] = []

    def service(self, handler_call_details: Any) -> Any:
        method = METHODS.get(handler_call_details.method)
        if method is None:
            return None
        request, response = (_class(message) for message in (method.input_type, method.output_type))
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.client_streaming, method.server_streaming]

        async def one(_request, _context):
            self.callers.append((handler_call_details.method, current_caller().name))
            return response()

        async def many(_request, _context):
            self.callers.append((handler_call_details.method, current_caller().name))
            yield response()

        behaviour = many if method.server_streaming else one
        return make(behaviour, request_deserializer=request.FromString, response_serializer=response.SerializeToString)


def _class(descriptor):
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(descriptor)


@asynccontextmanager
async def serving(**settings):
    """Run a server that asks by ``settings``; yield its address and what was called."""
    known = Everything()
    server = GrpcServer(service_names=[], access=AccessSettings(insecure=False, **settings))
    server.server.add_generic_rpc_handlers((known,))
    port = await server.start("localhost", 0)
    await server.set_ready()
    try:
        yield f"localhost:{port}", known.callers
    finally:
        await server.stop(0)


async def call(address: str, path: str, token: str = "", request: Any = None, **settings) -> str:
    """Call ``path``; return OK, or the reason (its code where there is none)."""
    method = METHODS[path]
    message = request if request is not None else _class(method.input_type)()
    async with open_aio_channel(address, CallerSettings(token=token, **settings)) as channel:
        kind = (
            ("stream" if method.client_streaming else "unary")
            + "_"
            + ("stream" if method.server_streaming else "unary")
        )
        made = getattr(channel, kind)(
            path,
            request_serializer=type(message).SerializeToString,
            response_deserializer=_class(method.output_type).FromString,
        )
        # The channel's interceptors are for calls that send one message; Envoy streams with metadata of its own.
        own = {"metadata": (("authorization", f"Bearer {token}"),)} if method.client_streaming and token else {}
        given = made(iter([message]) if method.client_streaming else message, timeout=20, **own)
        try:
            if method.server_streaming:
                async for _ in given:
                    break
            else:
                await given
        except grpc.aio.AioRpcError as error:
            return reason_of(error)
        return "OK"


def reason_of(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    for packed in status.details if status else ():
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            packed.Unpack(info)
            return f"{error.code().name} {info.reason}"
    return error.code().name


def refused(path: str, caller: str, code: str) -> float:
    labels = {"method": path.removeprefix("/"), "caller": caller, "code": code}
    return REGISTRY.get_sample_value("tidegate_grpc_refused_total", labels) or 0.0


def test_every_call_of_every_proto_has_a_role():
    assert set(METHODS) == set(ACCESS)
    assert {service.full_name for service in SERVICES if service.full_name.startswith("tidegate.")} == _our_services()


def _our_services() -> set[str]:
    """Return the services in all protos of ours that are loaded with the package."""
    import importlib
    import pkgutil

    import tidegate.v1

    found = set()
    for module in pkgutil.iter_modules(tidegate.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"tidegate.v1.{module.name}").DESCRIPTOR
            found |= {service.full_name for service in file.services_by_name.values()}
    return found


def test_every_field_that_names_a_model_is_one():
    for path, access in ACCESS.items():
        if access.scope is Scope.FIELD:
            descriptor = METHODS[path].input_type
            for name in access.field.split("."):
                field = descriptor.fields_by_name[name]
                descriptor = field.message_type
            assert field.type == field.TYPE_STRING, path


@pytest.mark.parametrize("path", sorted(path for path in METHODS if not path.startswith("/grpc.")))
async def test_a_call_is_let_in_by_its_callers_role(path):
    access = ACCESS[path]
    async with serving(tokens=tokens_file()) as (address, callers):
        assert await call(address, path) == "UNAUTHENTICATED TOKEN_MISSING"
        assert await call(address, path, "unknown") == "UNAUTHENTICATED TOKEN_UNKNOWN"
        assert await call(address, path, "over") == "UNAUTHENTICATED TOKEN_EXPIRED"
        assert callers == []
        for role in Role:
            before = refused(path, f"a-{role.value}", "ROLE_INSUFFICIENT")
            expected = role in {Role.ADMIN, access.role} or access.role is Role.READER
            found = await call(address, path, role.value)
            assert found == ("OK" if expected else "PERMISSION_DENIED ROLE_INSUFFICIENT"), role
            assert refused(path, f"a-{role.value}", "ROLE_INSUFFICIENT") == before + (not expected)
        assert (path, "a-admin") in callers


@pytest.mark.parametrize("path", sorted(path for path, access in ACCESS.items() if access.scope is Scope.FIELD))
async def test_a_token_for_some_models_reaches_no_other(path):
    field = ACCESS[path].field
    forms = (
        ("{}",)
        if field in {"model", "training.model", "policy.model"}
        else ("models/{}", "models/{}/versions/1.0.0", "models/{}@stable")
    )
    async with serving(tokens=tokens_file()) as (address, _):
        for form in forms:
            for model, expected in (
                ("churn", "OK"),
                ("churn-eu", "OK"),
                ("fraud", "PERMISSION_DENIED MODEL_NOT_YOURS"),
            ):
                request = _class(METHODS[path].input_type)()
                *outer, name = field.split(".")
                target = request
                for each in outer:
                    target = getattr(target, each)
                setattr(target, name, form.format(model))
                assert await call(address, path, "bound", request) == expected, (form, model)
        # Whoever names none touches none of theirs.
        assert await call(address, path, "bound") == "PERMISSION_DENIED MODEL_NOT_YOURS"


@pytest.mark.parametrize("path", sorted(path for path, access in ACCESS.items() if access.scope is Scope.ALL))
async def test_a_token_for_some_models_may_not_call_what_concerns_all(path):
    async with serving(tokens=tokens_file()) as (address, _):
        assert await call(address, path, "bound") == "PERMISSION_DENIED MODEL_NOT_YOURS"


async def test_health_is_for_everybody_and_reflection_for_whoever_is_known():
    reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    async with serving(tokens=tokens_file()) as (address, _):
        async with grpc.aio.insecure_channel(address) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert await call(address, reflection) == "UNAUTHENTICATED TOKEN_MISSING"
        assert await call(address, reflection, "reader") == "OK"
        assert await call(address, reflection, "bound") == "OK"


async def test_a_call_that_is_not_in_the_table_is_for_nobody(monkeypatch):
    path = "/tidegate.v1.RegistryService/GetModel"
    monkeypatch.setattr(guard, "ACCESS", {other: access for other, access in ACCESS.items() if other != path})
    async with serving(tokens=tokens_file()) as (address, _):
        assert await call(address, path, "admin") == "PERMISSION_DENIED CALL_NOT_LISTED"


@pytest.mark.parametrize("header", ["", "reader", "Basic cmVhZGVy", "Bearer", "Bearer  "])
async def test_other_forms_of_authorization_are_none(header):
    path = "/tidegate.v1.RegistryService/ListModels"
    request = registry_service_pb2.ListModelsRequest()
    async with serving(tokens=tokens_file()) as (address, _), grpc.aio.insecure_channel(address) as channel:
        made = channel.unary_unary(path, request_serializer=type(request).SerializeToString)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await made(request, metadata=(("authorization", header),), timeout=20)
        assert reason_of(raised.value) == "UNAUTHENTICATED TOKEN_MISSING"


async def test_a_changed_file_counts_from_the_next_call(tmp_path):
    path, file = "/tidegate.v1.RegistryService/ListModels", tmp_path / "tokens.json"
    file.write_text(tokens_file({"first": {"name": "one", "role": "reader"}}))
    async with serving(tokens_file=file) as (address, _):
        assert await call(address, path, "first") == "OK"
        fresh = tmp_path / "fresh"
        fresh.write_text(tokens_file({"second": {"name": "one", "role": "reader"}}))
        fresh.rename(file)
        assert await call(address, path, "first") == "UNAUTHENTICATED TOKEN_UNKNOWN"
        assert await call(address, path, "second") == "OK"
        # Neither a broken file nor none locks everybody out, or lets anybody in.
        file.write_text('{"tokens": [{"name"')
        assert await call(address, path, "second") == "OK"
        assert await call(address, path, "first") == "UNAUTHENTICATED TOKEN_UNKNOWN"
        file.unlink()
        assert await call(address, path, "second") == "OK"
        file.write_text(tokens_file({"third": {"name": "one", "role": "reader"}}))
        assert await call(address, path, "second") == "UNAUTHENTICATED TOKEN_UNKNOWN"
        assert await call(address, path, "third") == "OK"


async def test_a_callers_own_token_may_be_changed_in_its_file(tmp_path):
    path, own = "/tidegate.v1.RegistryService/ListModels", tmp_path / "token"
    own.write_text("over\n")
    request = registry_service_pb2.ListModelsRequest()
    settings = CallerSettings(token_file=own)
    async with serving(tokens=tokens_file()) as (address, _), open_aio_channel(address, settings) as channel:
        made = channel.unary_unary(path, request_serializer=type(request).SerializeToString)
        with pytest.raises(grpc.aio.AioRpcError):
            await made(request, timeout=20)
        own.write_text("reader\n")
        await made(request, timeout=20)


async def test_gateways_of_an_older_release_are_let_in_only_where_that_is_set():
    xds = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
    models = "/tidegate.v1.RegistryService/ListModels"
    async with serving(tokens=tokens_file(), admit_old_gateways=True) as (address, callers):
        assert await call(address, xds) == "OK"
        # What an Envoy sends whose environment has no token.
        assert await call(address, xds, "-") == "OK"
        assert callers == [(xds, "gateway-without-token")] * 2
        assert await call(address, xds, "unknown") == "UNAUTHENTICATED TOKEN_UNKNOWN"
        assert await call(address, xds, "reader") == "PERMISSION_DENIED ROLE_INSUFFICIENT"
        assert await call(address, models) == "UNAUTHENTICATED TOKEN_MISSING"


async def test_insecure_asks_nobody():
    server = GrpcServer(service_names=[], access=AccessSettings(insecure=True))
    known = Everything()
    server.server.add_generic_rpc_handlers((known,))
    port = await server.start("127.0.0.1", 0)
    assert await call(f"127.0.0.1:{port}", "/tidegate.v1.RegistryService/ApplyPolicy") == "OK"
    assert known.callers == [("/tidegate.v1.RegistryService/ApplyPolicy", "anonymous")]
    await server.stop(0)


@pytest.fixture
def pems(tmp_path):
    """A certificate authority, a server's and two callers' certificates, as files."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, certificate in (
        ("server", authority.issue_cert("localhost")),
        ("gateway", authority.issue_cert("gateway.example", common_name="gateway-1")),
        ("stranger", authority.issue_cert("stranger.example")),
    ):
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(tmp_path / f"{name}.pem", append=number > 0)
    return tmp_path


async def test_tls_and_a_token(pems):
    path = "/tidegate.v1.RegistryService/ListModels"
    settings = {"tls_cert_file": pems / "server.pem", "tls_key_file": pems / "server.key"}
    async with serving(tokens=tokens_file(), **settings) as (address, _):
        assert await call(address, path, "reader", tls_ca_file=pems / "ca.pem") == "OK"
        assert await call(address, path, tls_ca_file=pems / "ca.pem") == "UNAUTHENTICATED TOKEN_MISSING"
        assert await call(address, path, "reader") == "UNAVAILABLE"


async def test_mutual_tls_knows_callers_by_their_certificates(pems):
    path = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
    tokens = json.dumps(
        {
            "tokens": [
                {"name": "edge", "role": "service", "certificate": "gateway-1"},
                {"name": "kim", "role": "reader", "sha256": digest_of_token("reader")},
            ]
        }
    )
    settings = {
        "tls_cert_file": pems / "server.pem",
        "tls_key_file": pems / "server.key",
        "tls_client_ca_file": pems / "ca.pem",
    }

    def own(name):
        return {
            "tls_ca_file": pems / "ca.pem",
            "tls_cert_file": pems / f"{name}.pem",
            "tls_key_file": pems / f"{name}.key",
        }

    async with serving(tokens=tokens, **settings) as (address, callers):
        assert await call(address, path, **own("gateway")) == "OK"
        assert callers == [(path, "edge")]
        assert await call(address, path, **own("stranger")) == "UNAUTHENTICATED TOKEN_UNKNOWN"
        # A token says more than a certificate.
        assert await call(address, path, "reader", **own("gateway")) == "PERMISSION_DENIED ROLE_INSUFFICIENT"
        assert await call(address, path, tls_ca_file=pems / "ca.pem") == "UNAVAILABLE"
