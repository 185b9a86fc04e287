from __future__ import annotations

import pytest

from tidegate.core.clock import utc_now
from tidegate.core.errors import InvalidInput
from tidegate.modelhost.lifecycle import Process, Reason, Server, Spec, State
from tidegate.modelhost.store import StateFile, from_json, to_json

SPEC = Spec(
    server_id="churn@1.0.0",
    model="churn",
    version="1.0.0",
    artifact_uri="s3://bucket/key",
    artifact_digest="sha256:" + "0" * 64,
    artifact_format="onnx",
    runtime="kserve-onnx",
    load_timeout_s=30.0,
    memory_mib_max=1024,
    min_sandbox="limits",
    restart=True,
)


def full_server() -> Server:
    return Server(
        spec=SPEC,
        state=State.READY,
        asked_time=utc_now(),
        endpoint="unix:/s",
        readiness_path="/v2/health/ready",
        process=Process(pid=1, create_time_s=1.25),
        launch_time=utc_now(),
        ready_time=utc_now(),
        reason=Reason(code="SERVER_DIED", message="it ended"),
        exit_code=-9,
        restarts=2,
        was_ready=True,
    )


def test_a_server_survives_the_file(tmp_path):
    file = StateFile(tmp_path / "deep" / "servers.json")
    servers = [full_server(), Server(spec=SPEC, state=State.STARTING, asked_time=utc_now())]
    file.save(servers)
    assert file.load() == servers
    assert from_json(to_json(servers[0])) == servers[0]


def test_no_file_means_no_servers(tmp_path):
    assert StateFile(tmp_path / "servers.json").load() == []


def test_a_half_written_file_never_replaces_the_old_one(tmp_path):
    file = StateFile(tmp_path / "servers.json")
    file.save([full_server()])
    (tmp_path / "servers.json.partial").write_text("{")
    assert len(file.load()) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2, "servers": []}', '{"format": 1, "servers": [{}]}'])
def test_a_foreign_file_is_refused_by_name(tmp_path, text):
    path = tmp_path / "servers.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"servers\.json") as caught:
        StateFile(path).load()
    assert caught.value.code == "STATE_FILE_INVALID"
