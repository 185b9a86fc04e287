"""Errors of a real gRPC server, as the SDK and the command line give them on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from tidegate.client import ClientSettings, TidegateClient
from tidegate.client.cli import app
from tidegate.core.errors import Conflict, FailedPrecondition, InvalidInput, NotFound, TidegateError, Unavailable
from tidegate.core.grpc_server import GrpcServer
from tidegate.core.settings import AccessSettings, KafkaSettings, ObjectStoreSettings
from tidegate.v1 import registry_service_pb2 as api
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.registry_service_pb2_grpc import RegistryServiceServicer, add_RegistryServiceServicer_to_server
from tidegate.v1.values_pb2 import Change, Version

ERRORS: dict[str, TidegateError] = {
    "missing": NotFound("model missing does not exist", code="MODEL_MISSING", hint="tidegate models lists them"),
    "invalid": InvalidInput("name is odd", code="NAME_INVALID", field="name"),
    "held": FailedPrecondition("stable moves only by a rollout", code="ALIAS_PROTECTED"),
    "raced": Conflict("somebody was faster", code="ETAG_STALE"),
    "away": Unavailable("the store is away", code="STORE_AWAY"),
}


class Servicer(RegistryServiceServicer):
    async def ListVersions(self, request, context):  # noqa: N802  (the contract's name)
        model = request.parent.removeprefix("models/")
        if model in ERRORS:
            raise ERRORS[model]
        page = int(request.page_token or 0)
        version = Version(major=1, minor=1 - page)
        registered = ModelRegistered(model=model, version=version, change=Change.CHANGE_MINOR, reason=f"page {page}")
        found = api.ModelVersion(registered=registered, aliases=["stable"], validation="blessed")
        return api.ListVersionsResponse(versions=[found], next_page_token="" if page else "1")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> GrpcServer:
        server = GrpcServer(service_names=["tidegate.v1.RegistryService"], access=AccessSettings(insecure=True))
        add_RegistryServiceServicer_to_server(Servicer(), server.server)
        await server.start("127.0.0.1", 0)
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    yield f"127.0.0.1:{server.port}"
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


@pytest.fixture
def client(address: str) -> Iterator[TidegateClient]:
    settings = ClientSettings(kafka=KafkaSettings(), object_store=ObjectStoreSettings(), registry_address=address)
    with TidegateClient(settings) as client:
        yield client


@pytest.mark.parametrize("model", sorted(ERRORS))
def test_rich_error_comes_back_as_it_was_raised(client: TidegateClient, model: str) -> None:
    wanted = ERRORS[model]
    with pytest.raises(TidegateError) as raised:
        client.list_versions(model)
    assert type(raised.value) is type(wanted)
    assert (raised.value.code, raised.value.field, raised.value.hint) == (wanted.code, wanted.field, wanted.hint)
    assert str(raised.value) == str(wanted)


def test_every_page_is_read(client: TidegateClient) -> None:
    assert [version.registered.reason for version in client.list_versions("churn")] == ["page 0", "page 1"]


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        ("missing", 4, "error: model missing does not exist\nhint: tidegate models lists them\n"),
        ("invalid", 2, "error: name is odd [name]\n"),
        ("held", 1, "error: stable moves only by a rollout\n"),
        ("away", 3, "error: the store is away\nhint: see `tidegate status`; `tidegate up` starts the embedded stack\n"),
    ],
)
def test_command_line_says_what_failed_and_exits_by_kind(
    address: str, monkeypatch: pytest.MonkeyPatch, model: str, code: int, said: str
) -> None:
    monkeypatch.setenv("TIDEGATE_REGISTRY_ADDRESS", address)
    result = CliRunner().invoke(app, ["versions", model])
    assert (result.exit_code, result.stderr) == (code, said)


def test_versions_are_listed_with_the_reason_for_each_number(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_REGISTRY_ADDRESS", address)
    result = CliRunner().invoke(app, ["versions", "churn"])
    assert result.exit_code == 0
    assert result.output.splitlines()[1].split() == ["1.1.0", "MINOR", "blessed", "stable", "page", "0"]
