# ruff: noqa: ASYNC220  (conditions are polled with a deadline; a host starts at once)
"""A real model host in a process of its own, the real runtime, and a few runtimes that misbehave."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper

from tidegate.core.object_store import ObjectStore, digest_of_bytes
from tidegate.core.settings import ObjectStoreSettings
from tidegate.modelhost import processes
from tidegate.v1 import modelhost_service_pb2 as pb
from tidegate.v1 import modelhost_service_pb2_grpc as pb_grpc
from tidegate.v1.values_pb2 import Artifact, Version

REPOSITORY = Path(__file__).parents[3]
RUNTIME = REPOSITORY / "runtimes" / "kserve-onnx"
DEADLINE_S = 90.0

SLEEPER = "import time; print('sleeping', flush=True); time.sleep(600)"
# Ignores SIGTERM, and leaves its session with a child that does the same.
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
print('deaf', flush=True)
time.sleep(600)
"""
# Tells in its log what it can reach: its arguments are the model, a folder with a secret, and a port that listens.
# It only looks: without a sandbox it would leave traces otherwise.
SPY = """
import os, pathlib, resource, socket, subprocess, sys, time
def attempt(name, call):
    try:
        print(f'{name}=REACHED {call()!r}', flush=True)
    except OSError as error:
        print(f'{name}=blocked {error}', flush=True)
def write(path):
    if not os.access(path, os.W_OK):
        raise PermissionError(path)
def nest():
    if subprocess.run(['unshare', '--user', 'true'], capture_output=True).returncode:
        raise PermissionError('unshare')
model, folder, port = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
attempt('secret', lambda: (folder / 'secret').read_text())
attempt('passwd', lambda: pathlib.Path('/etc/passwd').read_text()[:4])
attempt('read-model', lambda: len(model.read_bytes()))
attempt('write-model', lambda: write(model))
print('beside-the-model=%s' % sorted(os.listdir(model.parent)))
attempt('write-usr', lambda: write('/usr'))
attempt('write-root', lambda: write('/'))
attempt('write-tmp', lambda: write('/tmp'))
attempt('network', lambda: socket.create_connection(('127.0.0.1', port), timeout=2))
attempt('namespace', nest)
print('temporary=%d' % (os.statvfs('/tmp').f_blocks * os.statvfs('/tmp').f_frsize))
print('processes=%d' % len([name for name in os.listdir('/proc') if name.isdigit()]))
print('environment=%s' % sorted(os.environ))
print('memory=%d' % resource.getrlimit(resource.RLIMIT_AS)[0])
print('files=%d' % resource.getrlimit(resource.RLIMIT_NOFILE)[0])
print('done', flush=True)
time.sleep(600)
"""


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any] | None = None) -> bytes:
    """Return an ONNX model."""
    infos = (
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(*item) for item in outputs],
    )
    model = helper.make_model(
        helper.make_graph(nodes, "g", *infos, constants or []),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def models() -> SimpleNamespace:
    """Return small models: twice, one that indexes, one that takes logarithms, one of strings."""
    node = helper.make_node
    table = helper.make_tensor("table", TensorProto.FLOAT, [3], [1, 2, 3])
    return SimpleNamespace(
        twice=graph(
            [node("Add", ["x", "x"], ["y"])], [("x", TensorProto.FLOAT, ["n", 2])], [("y", TensorProto.FLOAT, ["n", 2])]
        ),
        gather=graph(
            [node("Gather", ["table", "i"], ["y"])],
            [("i", TensorProto.INT64, ["n"])],
            [("y", TensorProto.FLOAT, ["n"])],
            [table],
        ),
        lower=graph(
            [node("StringNormalizer", ["s"], ["y"], case_change_action="LOWER", locale="en_US.UTF-8")],
            [("s", TensorProto.STRING, ["n"])],
            [("y", TensorProto.STRING, ["n"])],
        ),
        log=graph([node("Log", ["x"], ["y"])], [("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.FLOAT, ["n"])]),
        text=graph(
            [node("Identity", ["s"], ["y"])], [("s", TensorProto.STRING, ["n"])], [("y", TensorProto.STRING, ["n"])]
        ),
    )


@pytest.fixture(scope="session")
def runtime_dir() -> Path:
    """Return the folder of the shipped runtime, with its environment installed."""
    if not (RUNTIME / ".venv" / "bin" / "python").exists():
        uv = shutil.which("uv") or str(REPOSITORY / ".tools" / "bin" / "uv")
        subprocess.run([uv, "sync", "--frozen", "--project", str(RUNTIME)], check=True)
    return RUNTIME


@pytest.fixture
def runtimes_dir(tmp_path: Path, runtime_dir: Path) -> Path:
    """Return a folder with the shipped runtime and those that misbehave."""
    folder = tmp_path / "runtimes"
    folder.mkdir()
    (folder / runtime_dir.name).symlink_to(runtime_dir)
    for name, script in (("sleeper", SLEEPER), ("stubborn", STUBBORN), ("spy", SPY)):
        (folder / name).mkdir()
        (folder / name / "script.py").write_text(script)
        (folder / name / "uv.lock").write_text("version = 1")
        (folder / name / "runtime.yaml").write_text(
            f"name: {name}\nformats: [onnx]\nprotocol: v2-rest\nreadiness_path: /ready\npython: {sys.executable}\n"
            'command: ["{python}", "{runtime_dir}/script.py", "{model_path}", "' + str(tmp_path) + '", "0"]\n'
        )
    return folder


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """Return a short folder, since sockets' paths are short."""
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        yield Path(folder)


@dataclass
class HostProcess:
    """A model host in a process of its own, and a client of it."""

    environment: dict[str, str]
    data_dir: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    channel: grpc.aio.Channel | None = None
    stub: Any = None
    overrides: dict[str, str] = field(default_factory=dict)

    async def start(self, **overrides: str) -> None:
        """Start the host and wait until it is healthy."""
        from tidegate.stack.ports import free_ports

        (port,) = free_ports(1)
        self.port = port
        self.overrides = {
            f"TIDEGATE_MODELHOST_{name.upper()}": value for name, value in overrides.items()
        } or self.overrides
        environment = {**os.environ, **self.environment, **self.overrides, "TIDEGATE_MODELHOST_PORT": str(port)}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tidegate.modelhost"], env=environment, stderr=output
            )
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub = pb_grpc.ModelHostServiceStub(self.channel)
        health = health_pb2_grpc.HealthStub(self.channel)

        async def is_serving() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=2)
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        await self.until(is_serving)

    async def end(self, number: int) -> int:
        """Send the host a signal and return its exit code."""
        assert self.process is not None
        assert self.channel is not None
        await self.channel.close()
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)

    async def until(self, condition: Callable[[], Awaitable[Any]]) -> Any:
        """Return the first true value of ``condition``."""
        async with asyncio.timeout(DEADLINE_S):
            while not (found := await condition()):
                await asyncio.sleep(0.05)
        return found

    async def ask(self, spec: pb.ServerSpec) -> pb.Server:
        """Call StartServer."""
        return (await self.stub.StartServer(pb.StartServerRequest(spec=spec))).server

    async def stop(self, server_id: str) -> None:
        """Call StopServer."""
        await self.stub.StopServer(pb.StopServerRequest(server_id=server_id))

    async def get(self, server_id: str) -> pb.Server | None:
        """Return the server of the list."""
        servers = (await self.stub.ListServers(pb.ListServersRequest())).servers
        return next((server for server in servers if server.spec.server_id == server_id), None)

    async def text(self, server_id: str) -> str:
        """Return the server's log."""
        return str((await self.stub.GetServerLog(pb.GetServerLogRequest(server_id=server_id))).text)

    async def reaches(self, server_id: str, state: int, **fields: Any) -> pb.Server:
        """Wait until the server is in ``state`` and has ``fields``; fail at once if it has failed instead."""

        async def look() -> pb.Server | None:
            server = await self.get(server_id)
            if server is None:
                return None
            failed = server.state == pb.SERVER_STATE_FAILED != state
            assert not failed, f"{server}\n{self.log.read_text()}"
            is_there = server.state == state and all(getattr(server, name) == value for name, value in fields.items())
            return server if is_there else None

        found: pb.Server = await self.until(look)
        return found

    def alive(self) -> set[str]:
        """Return the ids of servers that have a process."""
        return processes.marks_alive(self.data_dir)


@pytest.fixture
async def host(
    tmp_path: Path, runtimes_dir: Path, socket_dir: Path, store_settings: ObjectStoreSettings
) -> AsyncIterator[HostProcess]:
    """Return a host that is not started yet; whatever it leaves is ended."""
    data_dir = tmp_path / "data"
    environment = {
        "TIDEGATE_MODELHOST_DATA_DIR": str(data_dir),
        "TIDEGATE_MODELHOST_SOCKET_DIR": str(socket_dir),
        "TIDEGATE_MODELHOST_RUNTIMES_DIR": str(runtimes_dir),
        "TIDEGATE_MODELHOST_STOP_GRACE_S": "3",
        "TIDEGATE_S3_ENDPOINT": store_settings.endpoint,
        "TIDEGATE_S3_ACCESS_KEY": store_settings.access_key.get_secret_value(),
        "TIDEGATE_S3_SECRET_KEY": store_settings.secret_key.get_secret_value(),
        "TIDEGATE_S3_BUCKET": store_settings.bucket,
    }
    host = HostProcess(environment=environment, data_dir=data_dir, log=tmp_path / "host.log")
    yield host
    if host.process is not None and host.process.poll() is None:
        await host.end(signal.SIGTERM)
    for server_id in host.alive():
        await processes.end(None, processes.mark(data_dir, server_id), grace_s=0.0)


MakeSpec = Callable[..., Awaitable[pb.ServerSpec]]


@pytest.fixture
def make_spec(store_settings: ObjectStoreSettings, models: SimpleNamespace) -> MakeSpec:
    """Return a function that stores a model and returns a spec for it."""
    store = ObjectStore(store_settings)

    async def make(
        server_id: str = "twice@1.0.0", *, content: bytes | None = None, digest: str = "", **fields: Any
    ) -> pb.ServerSpec:
        data = models.twice if content is None else content
        found = digest_of_bytes(data)
        uri = await store.put_bytes(f"artifacts/sha256/{found.removeprefix('sha256:')}", data)
        defaults = {"runtime": "kserve-onnx", "model": "twice", "version": Version(major=1), "load_timeout_s": 60.0}
        artifact = Artifact(uri=uri, digest=digest or found, format="onnx")
        return pb.ServerSpec(server_id=server_id, artifact=artifact, **{**defaults, **fields})

    return make


@pytest.fixture
def infer() -> Callable[..., Awaitable[httpx.Response]]:
    """Return a function that asks the model at an endpoint for twice its input."""

    async def ask(endpoint: str, data: list[float], model: str = "twice") -> httpx.Response:
        is_unix = endpoint.startswith("unix:")
        transport = httpx.AsyncHTTPTransport(uds=endpoint.removeprefix("unix:")) if is_unix else None
        base_url = "http://model" if is_unix else f"http://{endpoint}"
        body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": data}]}
        async with httpx.AsyncClient(transport=transport, base_url=base_url, timeout=30) as client:
            return await client.post(f"/v2/models/{model}/infer", json=body)

    return ask


@pytest.fixture
def serving(runtime_dir, models, socket_dir):
    """Return a context manager that serves a model (its name, or its bytes) by the shipped runtime; it gives a client."""

    @asynccontextmanager
    async def serve(name: str | bytes):
        model, path = socket_dir / "model.onnx", socket_dir / "s"
        model.write_bytes(name if isinstance(name, bytes) else getattr(models, name))
        python = runtime_dir / ".venv" / "bin" / "python"
        line = [python, runtime_dir / "server.py", "--model-name", "a.model", "--model-path", model]
        line += ["--version", "1.2.3", "--listen", f"unix:{path}"]
        server = subprocess.Popen([str(part) for part in line], stderr=(socket_dir / "log").open("wb"))
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://model", timeout=30) as client:
                async with asyncio.timeout(DEADLINE_S):
                    while not path.exists() or (await client.get("/v2/health/ready")).status_code != 200:
                        assert server.poll() is None, (socket_dir / "log").read_text()
                        await asyncio.sleep(0.05)
                client.headers["x-pid"] = str(server.pid)
                yield client
                assert server.poll() is None
        finally:
            server.terminate()
            server.wait()

    return serve
