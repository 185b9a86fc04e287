"""Model servers outlive their host, and even so ``down`` ends them all."""

from __future__ import annotations

import io
import sys
import time

import psutil
import pytest

from tidegate.core.channels import open_channel
from tidegate.core.object_store import digest_of_bytes
from tidegate.core.settings import CallerSettings
from tidegate.stack import leftovers
from tidegate.stack.object_store import ARTIFACT_BUCKET, ensure_credentials
from tidegate.stack.readiness import minio_client
from tidegate.stack.stack import Stack
from tidegate.stack.tokens import LOCAL
from tidegate.v1 import modelhost_service_pb2 as pb
from tidegate.v1 import modelhost_service_pb2_grpc as pb_grpc
from tidegate.v1.values_pb2 import Artifact, Version

MODEL = b"a model that is never loaded"
DEADLINE_S = 60.0


@pytest.fixture
def stack(tmp_path, kafka_jars, monkeypatch):
    sleeper = tmp_path / "runtimes" / "sleeper"
    sleeper.mkdir(parents=True)
    (sleeper / "script.py").write_text("import time; time.sleep(600)")
    (sleeper / "uv.lock").write_text("version = 1")
    (sleeper / "runtime.yaml").write_text(
        f"name: sleeper\nformats: [onnx]\nprotocol: v2-rest\nreadiness_path: /ready\npython: {sys.executable}\n"
        'command: ["{python}", "{runtime_dir}/script.py"]\n'
    )
    monkeypatch.setenv("TIDEGATE_RUNTIMES_DIR", str(sleeper.parent))
    made = Stack(tmp_path / "data", names=("kafka", "object-store", "modelhost"))
    yield made
    made.down()
    assert leftovers.marked(made.layout) == []
    assert leftovers.model_servers(made.layout) == []


def start_server(stack, ports):
    keys = ensure_credentials(stack.layout.credentials)
    minio_client(f"127.0.0.1:{ports.object_store}", keys).put_object(
        bucket_name=ARTIFACT_BUCKET, object_name="artifacts/one", data=io.BytesIO(MODEL), length=len(MODEL)
    )
    artifact = Artifact(uri=f"s3://{ARTIFACT_BUCKET}/artifacts/one", digest=digest_of_bytes(MODEL), format="onnx")
    spec = pb.ServerSpec(
        server_id="m@1.0.0", model="m", version=Version(major=1), artifact=artifact, runtime="sleeper", restart=True
    )
    with open_channel(
        f"127.0.0.1:{ports.modelhost}", CallerSettings(token_file=stack.layout.tokens / LOCAL)
    ) as channel:
        pb_grpc.ModelHostServiceStub(channel).StartServer(pb.StartServerRequest(spec=spec), timeout=10)
    deadline = time.monotonic() + DEADLINE_S
    while not leftovers.model_servers(stack.layout):
        assert time.monotonic() < deadline, "the model server did not start in time"
        time.sleep(0.05)


@pytest.mark.parametrize("killed", [(), ("supervisord",), ("supervisord", "modelhost")], ids=["none", "one", "both"])
def test_down_ends_model_servers_whoever_was_killed_before(stack, killed):
    started = stack.up(port_base=0)
    start_server(stack, started.ports)
    victims = [psutil.Process(started.pids[name]) for name in killed]
    for victim in victims:
        victim.kill()
    psutil.wait_procs(victims, timeout=DEADLINE_S)
    assert stack.down()
    assert leftovers.model_servers(stack.layout) == []
    assert not stack.layout.model_sockets("modelhost").exists()
