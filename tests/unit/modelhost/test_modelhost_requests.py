from __future__ import annotations

import pytest

from tidegate.core.errors import FailedPrecondition, InvalidInput
from tidegate.modelhost.runtimes import load_runtime
from tidegate.modelhost.service import spec_from_wire, spec_to_wire
from tidegate.v1 import modelhost_service_pb2 as pb
from tidegate.v1.values_pb2 import Artifact, Version

DESCRIPTION = """
name: kind
formats: [onnx]
protocol: v2-rest
readiness_path: /ready
python: bin/python
lock: uv.lock
command: ["{python}", "{runtime_dir}/server.py", "{model}", "{version}", "{model_path}", "{listen}"]
"""


@pytest.fixture
def runtimes_dir(tmp_path):
    folder = tmp_path / "kind"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    (folder / "uv.lock").write_text("version = 1")
    (folder / "runtime.yaml").write_text(DESCRIPTION)
    return tmp_path


def wire(**changes) -> pb.ServerSpec:
    spec = pb.ServerSpec(
        server_id="churn@1.0.0",
        model="churn",
        version=Version(major=1),
        artifact=Artifact(uri="s3://bucket/key", digest="sha256:" + "0" * 64, format="onnx"),
        runtime="kind",
    )
    artifact = changes.pop("artifact", None)
    spec.MergeFrom(pb.ServerSpec(**changes))
    if artifact is not None:
        spec.artifact.MergeFrom(artifact)
    return spec


def test_defaults_are_filled_in(runtimes_dir):
    spec = spec_from_wire(wire(), runtimes_dir=runtimes_dir)
    assert (spec.load_timeout_s, spec.memory_mib_max, spec.min_sandbox) == (60.0, 4096, "limits")
    assert spec_from_wire(spec_to_wire(spec), runtimes_dir=runtimes_dir) == spec


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"server_id": "../x"}, "spec.server_id"),
        ({"server_id": "-x"}, "spec.server_id"),
        ({"model": "Churn!"}, "spec.model"),
        ({"runtime": "../kind"}, "spec.runtime"),
        ({"runtime": "absent"}, "spec.runtime"),
        ({"artifact": Artifact(format="pickle")}, "spec.artifact.format"),
        ({"artifact": Artifact(digest="sha256:0")}, "spec.artifact.digest"),
        ({"artifact": Artifact(uri="file:///etc/passwd")}, "spec.artifact.uri"),
        ({"load_timeout_s": -1.0}, "spec.load_timeout_s"),
        ({"load_timeout_s": float("nan")}, "spec.load_timeout_s"),
        ({"load_timeout_s": 1e9}, "spec.load_timeout_s"),
        ({"memory_mib_max": 1}, "spec.memory_mib_max"),
        ({"min_sandbox": "vm"}, "spec.min_sandbox"),
    ],
)
def test_a_wrong_field_is_refused_by_name(runtimes_dir, changes, field):
    with pytest.raises(InvalidInput) as caught:
        spec_from_wire(wire(**changes), runtimes_dir=runtimes_dir)
    assert caught.value.field == field


def test_the_command_names_runtime_model_and_socket(runtimes_dir, tmp_path):
    runtime = load_runtime(runtimes_dir, "kind")
    line = runtime.command_line(model="churn", version="1.0.0", model_path=tmp_path / "m", listen="unix:/s")
    folder = runtimes_dir / "kind"
    expected = [f"{folder}/bin/python", f"{folder}/server.py", "churn", "1.0.0", f"{tmp_path}/m", "unix:/s"]
    assert line == expected


def test_a_runtime_without_its_environment_says_how_to_install_it(runtimes_dir):
    (runtimes_dir / "kind" / "bin" / "python").unlink()
    with pytest.raises(FailedPrecondition, match="uv sync") as caught:
        load_runtime(runtimes_dir, "kind")
    assert caught.value.code == "RUNTIME_NOT_INSTALLED"


@pytest.mark.parametrize(
    "change", [("v2-rest", "grpc"), ("{model_path}", "{other}"), ("name: kind", "name: x"), ("formats:", "form:")]
)
def test_a_wrong_description_is_refused(runtimes_dir, change):
    (runtimes_dir / "kind" / "runtime.yaml").write_text(DESCRIPTION.replace(*change))
    with pytest.raises(InvalidInput) as caught:
        load_runtime(runtimes_dir, "kind")
    assert caught.value.code == "RUNTIME_INVALID"
