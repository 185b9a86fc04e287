"""``python -m tidegate.modelhost``: settings, adapters, service, run."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from tidegate.core.grpc_server import GrpcServer
from tidegate.core.object_store import ObjectStore
from tidegate.core.process import run, wait_for_signal
from tidegate.core.settings import AccessSettings, ObjectStoreSettings
from tidegate.core.telemetry import start_telemetry
from tidegate.modelhost.host import Host
from tidegate.modelhost.service import SERVICE_NAME, ModelHostService
from tidegate.modelhost.settings import ModelHostSettings
from tidegate.v1 import modelhost_service_pb2_grpc as pb_grpc

log = structlog.get_logger(__name__)


async def serve() -> None:
    """Serve until a signal asks to stop; live model servers go on."""
    settings = ModelHostSettings()
    start_telemetry("modelhost", settings)
    # The object store may come up later: a fetch that fails for that is tried again by the server's keeper.
    host = Host(settings, ObjectStore(ObjectStoreSettings()))
    server = GrpcServer(service_names=[SERVICE_NAME], access=AccessSettings())
    service = ModelHostService(host, runtimes_dir=settings.runtimes_dir)
    pb_grpc.add_ModelHostServiceServicer_to_server(service, server.server)
    await host.open()
    port = await server.start(settings.host, settings.port)
    await server.set_ready()
    log.info("serving", port=port, sandbox=host.launcher.level.value, listen=settings.listen.value)
    signal = asyncio.create_task(wait_for_signal())
    failure = asyncio.ensure_future(host.failure)
    ends: list[asyncio.Future[Any]] = [signal, failure]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await server.stop()
    await host.close()
    if failure.done():
        failure.result()


def main() -> None:
    """Run the service."""
    run(serve)


if __name__ == "__main__":
    main()
