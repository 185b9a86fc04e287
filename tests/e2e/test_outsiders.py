"""Whoever uses no library of ours publishes, asks and listens as the guides say: their programs are run as they stand."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import time
import zlib
from pathlib import Path

import guides
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper
from registrations import onnx_bytes

from tidegate.client.training import training_from_mapping
from tidegate.core.errors import FailedPrecondition

MODEL = "echo"
SERVED_S = 120
LIMIT_BYTES = 32 << 20
QUESTION = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.5]}]}'
# Every form of Triton's client: JSON or binary, either way, with each compression.
TRITON = """
import os
import numpy as np, tritonclient.grpc, tritonclient.http as triton
from tritonclient.utils import InferenceServerException
host = os.environ["GATEWAY"].removeprefix("http://")
wanted = np.array([[1.5], [-2.5]], dtype=np.float32)
def asked(kind, binary=True):
    x = kind.InferInput("x", [2, 1], "FP32")
    x.set_data_from_numpy(wanted, **({} if kind is tritonclient.grpc else {"binary_data": binary}))
    return x
with triton.InferenceServerClient(host) as client:
    assert client.is_server_ready() and client.is_model_ready("echo")
    for binary in (False, True):
        for answer in (False, True):
            for packed in (None, "gzip", "deflate"):
                y = triton.InferRequestedOutput("y", binary_data=answer)
                found = client.infer("echo", [asked(triton, binary)], outputs=[y], model_version="1",
                    request_compression_algorithm=packed, response_compression_algorithm=packed)
                assert (found.as_numpy("y") == wanted).all(), (binary, answer, packed)
with tritonclient.grpc.InferenceServerClient(host) as client:
    try:
        client.infer("echo", [asked(tritonclient.grpc)])
    except InferenceServerException as error:
        print(error.status())
"""

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("curl") is None, reason="the guides call curl, which is not installed"),
]


@pytest.fixture(scope="module")
def env(world) -> dict[str, str]:
    """Return the environment of a reader: what the stack offers, and the names that the guides use."""
    told = guides.offered(world.folder / "stack")
    keys = {"KEY": told["TIDEGATE_S3_ACCESS_KEY"], "SECRET": told["TIDEGATE_S3_SECRET_KEY"]}
    return {**told, **keys, "GATEWAY": world.gateway_url, "MODEL": MODEL}


def publish(env, folder: Path, content: bytes, model: str):
    (folder / "model.onnx").write_bytes(content)
    (program,) = guides.programs("producers.md", "python run")
    return guides.run_python(program, "model.onnx", model, folder=folder, env=env)


def curl(env, folder: Path, path: str, *options: str) -> tuple[int, str]:
    """Return status and body of a call to the gateway."""
    answer = folder / "answer"
    call = ["curl", "--silent", "--output", answer, "--write-out", "%{http_code}", *options, env["GATEWAY"] + path]
    done = guides.run(call, folder=folder, env=env)
    return int(done.stdout), answer.read_text() if answer.exists() else ""


def wait_until_served(env, folder: Path, model: str) -> None:
    deadline = time.monotonic() + SERVED_S
    while (status := curl(env, folder, f"/v2/models/{model}/ready")[0]) != 200:
        assert time.monotonic() < deadline, f"{model} is not served after {SERVED_S} s: {status}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def served(env, tmp_path_factory) -> str:
    """Publish a model from the guide's Python program, and wait until it is served."""
    folder = tmp_path_factory.mktemp("served")
    done = publish(env, folder, onnx_bytes(MODEL), MODEL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("ModelRegistered")
    assert 'owner: "team-a"' in done.stdout
    wait_until_served(env, folder, MODEL)
    return MODEL


def test_a_program_of_others_hears_why_its_model_is_refused(env, tmp_path):
    refused = publish(env, tmp_path, b"no model", "foreign")
    assert refused.returncode == 0, refused.stdout + refused.stderr
    assert refused.stdout.startswith("RegistrationRejected")
    assert "FORMAT_UNKNOWN" in refused.stdout


def test_curl_uploads_and_java_publishes(env, tmp_path, kafka_jars):
    if shutil.which("java") is None or shutil.which("javac") is None:
        pytest.skip("no JDK is here")
    (tmp_path / "model.onnx").write_bytes(onnx_bytes("java"))
    env = {**env, "MODEL": "from-java"}
    (upload,) = guides.programs("producers.md", "bash run")
    done = guides.run_bash(upload, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    (program,) = guides.programs("producers.md", "java run")
    (tmp_path / "Publish.java").write_text(program)
    needed = [jar for jar in kafka_jars.split(":") if re.search(r"/(kafka-clients|slf4j-api)-[\d.]+jar$", jar)]
    assert len(needed) == 2
    uri = "s3://tidegate-uploads/from-java/model.onnx"
    command = ["java", "-cp", ":".join(needed), "Publish.java", "model.onnx", "from-java", uri]
    done = guides.run(command, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "tidegate.v1.ModelRegistered"


@pytest.mark.usefixtures("served")
def test_curl_asks(env, tmp_path):
    done = [guides.run_bash(one, folder=tmp_path, env=env) for one in guides.programs("clients.md", "bash run")]
    text = "\n".join(one.stdout for one in done)
    assert [one.returncode for one in done] == [0] * len(done), text + done[-1].stderr
    assert "x-tidegate-version: 1.0.0" in text
    assert re.search(r"x-tidegate-prediction-id: [0-9a-f-]{36}", text)
    assert re.findall(r'"data":(\[.*?\])', text) == ["[1.5,2.5]", "[3.5]", "[4.5]"]


@pytest.mark.usefixtures("served")
def test_clients_of_triton_and_kserve_ask(env, tmp_path):
    (triton,) = guides.programs("clients.md", "python run")
    done = guides.run_python(triton, folder=tmp_path, env=env)
    assert "triton [[5.5], [6.5]]" in done.stdout, done.stdout + done.stderr
    (kserve,) = guides.programs("clients.md", "python run kserve")
    python = guides.ROOT / "runtimes" / "kserve-onnx" / ".venv" / "bin" / "python"
    done = guides.run_python(kserve, folder=tmp_path, env=env, python=python)
    assert "kserve [[7.5], [8.5]] 1.0.0" in done.stdout, done.stdout + done.stderr


@pytest.mark.usefixtures("served")
def test_every_form_of_tritons_client_is_answered(env, tmp_path):
    done = guides.run_python(TRITON, folder=tmp_path, env=env)
    assert (done.returncode, done.stdout.strip()) == (0, "StatusCode.UNIMPLEMENTED"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, QUESTION, ["content-type:"]),
        (200, QUESTION, ["content-type: application/json"]),
        (200, gzip.compress(QUESTION), ["content-encoding: gzip"]),
        (200, zlib.compress(QUESTION), ["content-encoding: deflate", "transfer-encoding: chunked"]),
        (400, gzip.compress(QUESTION)[:-9], ["content-encoding: gzip"]),
        (400, QUESTION.replace(b'"x"', b'"\xff"'), ["content-type: application/json"]),
        (400, QUESTION.replace(b'"x"', b'"\xff"'), []),
        (400, b"{", []),
        (413, b" " * LIMIT_BYTES + QUESTION, ["content-type: application/json"]),
        (413, b" " * LIMIT_BYTES + QUESTION, ["transfer-encoding: chunked"]),
        (413, gzip.compress(b" " * LIMIT_BYTES + QUESTION), ["content-encoding: gzip"]),
        (415, QUESTION, ["content-encoding: br"]),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,
)
@pytest.mark.usefixtures("served")
def test_a_body_is_taken_or_told_why_not(env, tmp_path, status, body, headers):
    (tmp_path / "body").write_bytes(body)
    options = [word for header in headers for word in ("--header", header)]
    found, text = curl(env, tmp_path, f"/v2/models/{MODEL}/infer", *options, "--data-binary", "@body")
    assert found == status, text
    assert ("error" in json.loads(text)) == (status != 200)


def test_a_consumer_of_others_follows_looks_up_and_reports(world, env, served, tmp_path):
    (follow,) = guides.programs("consumers.md", "python run")
    done = guides.run_python(follow, served, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RolloutStep 1.0.0 is ready; now 100 %" in done.stdout
    (look,) = guides.programs("consumers.md", "python run lookups")
    done = guides.run_python(look, served, folder=tmp_path, env=env)
    assert done.stdout.startswith(f"{served}@stable is 1.0.0: "), done.stdout + done.stderr
    assert f"{served}-1.0.0-" in done.stdout
    assert guides.run_python(look, "nobody", folder=tmp_path, env=env).stdout == "NOT_FOUND VERSION_NOT_FOUND\n"
    (tmp_path / "token").write_text("guessed")
    stranger = {**env, "TIDEGATE_TOKEN_FILE": str(tmp_path / "token")}
    assert guides.run_python(look, served, folder=tmp_path, env=stranger).stdout == "UNAUTHENTICATED TOKEN_UNKNOWN\n"
    (report,) = guides.programs("consumers.md", "python run outcomes")
    done = guides.run_python(report, served, "a-prediction", "1", folder=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    told = world.log.wait_for("outcome", lambda event: event.type == "OutcomeBatch").message
    assert (told.model, told.rows[0].prediction_id, told.rows[0].label) == (served, "a-prediction", 1.0)


def classes_bytes() -> bytes:
    """Return a model of one vector, a scale that may be left out, and two outputs: three classes' shares and the class."""
    weights = numpy_helper.from_array(np.eye(4, 3, dtype=np.float32), "weights")
    scale = numpy_helper.from_array(np.full(1, 2, dtype=np.float32), "scale")
    inputs = [("X", TensorProto.FLOAT, ["n", 4]), ("scale", TensorProto.FLOAT, [1])]
    outputs = [("shares", TensorProto.FLOAT, ["n", 3]), ("class", TensorProto.INT64, ["n"])]
    nodes = [
        helper.make_node("MatMul", ["X", "weights"], ["product"]),
        helper.make_node("Mul", ["product", "scale"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["shares"], axis=1),
        helper.make_node("ArgMax", ["shares"], ["class"], axis=1, keepdims=0),
    ]
    infos = [[helper.make_tensor_value_info(*one) for one in some] for some in (inputs, outputs)]
    graph = helper.make_graph(nodes, "classes", *infos, [weights, scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_a_model_that_no_table_describes_is_delivered_and_not_rolled_back_to_nowhere(world, env, tmp_path):
    x = {"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 0, 0]}
    scale = {"name": "scale", "datatype": "FP32", "shape": [1], "data": [0]}
    third = {"name": "shares", "datatype": "FP32", "shape": [1, 3], "data": [1 / 3] * 3}
    second = {"name": "class", "datatype": "INT64", "shape": [1], "data": [1]}
    samples = [
        {"inputs": [x], "expected": [second]},
        {"inputs": [x, scale], "expected": [third]},
        {"inputs": [x], "outputs": [{"name": "class"}], "expected": [second]},
    ]
    (tmp_path / "samples.jsonl").write_text("\n".join(json.dumps(one) for one in samples))
    pq.write_table(pa.table({"X": np.eye(4)[:3].tolist(), "label": [0, 1, 2]}), tmp_path / "evaluation.parquet")
    (tmp_path / "model.onnx").write_bytes(classes_bytes())
    world.policy(
        "{model: classes, registration: {gate_metric: {name: accuracy}}, "
        "validation: {metrics: [{name: accuracy, min: 1.0}]}}"
    )
    run = {
        "model": "classes",
        "artifact": "model.onnx",
        "evaluation": "evaluation.parquet",
        "sample_requests": "samples.jsonl",
        "signature": {
            "inputs": [
                {"name": "X", "datatype": "FP32", "shape": [-1, 4]},
                {"name": "scale", "datatype": "FP32", "shape": [1], "optional": True},
            ],
            "outputs": [
                {"name": "shares", "datatype": "FP32", "shape": [-1, 3]},
                {"name": "class", "datatype": "INT64", "shape": [-1]},
            ],
        },
        "metrics": [{"name": "accuracy", "value": 1.0, "higherIsBetter": True}],
        "lineage": {"codeCommit": "4f2a9c1"},
        "card": {"owner": "team-a", "description": "three classes of a vector"},
    }
    receipt = world.client.publish_training_completed(training_from_mapping(run, folder=tmp_path))
    assert world.client.wait_for_registration(receipt, timeout_s=90).type == "ModelRegistered"
    decided = world.log.wait_for(
        "verdict", lambda event: event.subject == "classes" and event.type.startswith("Validation")
    )
    assert decided.type == "ValidationPassed", decided.message
    wait_until_served(env, tmp_path, "classes")
    for inputs, expected in (([x], [0.1065, 0.787, 0.1065]), ([x, scale], [1 / 3] * 3)):
        body = json.dumps({"inputs": inputs, "outputs": [{"name": "shares"}]})
        status, text = curl(env, tmp_path, "/v2/models/classes/infer", "--data", body)
        assert status == 200, text
        assert json.loads(text)["outputs"][0]["data"] == pytest.approx(expected, abs=1e-3)
    for version in ("7.0.0", "1.0.0"):
        with pytest.raises(FailedPrecondition):
            world.client.rollback_model("classes", to=version)
