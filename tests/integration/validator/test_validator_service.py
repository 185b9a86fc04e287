"""The validator as a process: a real broker and object store, the real model host, the real serving runtime."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiokafka import AIOKafkaConsumer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper

from tidegate.contracts.codec import Event, decode, derived_event_id
from tidegate.contracts.topics import VALIDATION
from tidegate.core.bus import EventProducer
from tidegate.core.clock import utc_now
from tidegate.core.object_store import ObjectStore, digest_of_bytes
from tidegate.core.policy import default_policy
from tidegate.core.settings import KafkaSettings, ObjectStoreSettings
from tidegate.v1 import events_pb2 as pb
from tidegate.v1 import modelhost_service_pb2 as host_pb
from tidegate.v1 import modelhost_service_pb2_grpc as host_grpc
from tidegate.v1.policy_pb2 import MetricThreshold, Policy, SlicePolicy
from tidegate.v1.values_pb2 import Artifact, Change, Metric, Signature, Tensor, Version

REPOSITORY = Path(__file__).parents[3]
RUNTIME = REPOSITORY / "runtimes" / "kserve-onnx"
pytestmark = pytest.mark.timeout(900)

DEADLINE_S = 300.0
REQUEST_TIMEOUT_S = 5.0

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
SIGNATURE = Signature(
    inputs=[Tensor(name="x", datatype="FP32", shape=[-1, 1])],
    outputs=[Tensor(name="y", datatype="FP32", shape=[-1, 1])],
)


def graph(nodes: list[Any], *, output_shape: tuple[Any, ...] = ("n", 1), constants: tuple[Any, ...] = ()) -> bytes:
    """Return an ONNX model from x [n, 1] to y."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", FLOAT, list(output_shape))],
        list(constants),
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def endless() -> bytes:
    """Return a model that adds x to itself for as long as anybody can wait."""
    scalars = (("i", INT64), ("go", BOOL))
    inputs = [helper.make_tensor_value_info(name, kind, []) for name, kind in scalars]
    state = [helper.make_tensor_value_info(name, FLOAT, ["n", 1]) for name in ("v", "v_next")]
    nodes = [helper.make_node("Identity", ["go"], ["go_next"]), helper.make_node("Add", ["v", "v"], ["v_next"])]
    going = helper.make_tensor_value_info("go_next", BOOL, [])
    body = helper.make_graph(nodes, "body", [*inputs, state[0]], [going, state[1]])
    constants = (helper.make_tensor("trips", INT64, [], [1 << 62]), helper.make_tensor("yes", BOOL, [], [True]))
    return graph([helper.make_node("Loop", ["trips", "yes", "x"], ["y"], body=body)], constants=constants)


IDENTITY = graph([helper.make_node("Identity", ["x"], ["y"])])
NEGATION = graph([helper.make_node("Neg", ["x"], ["y"])])
LOGARITHM = graph([helper.make_node("Log", ["x"], ["y"])])
TWO_COLUMNS = graph([helper.make_node("Concat", ["x", "x"], ["y"], axis=1)], output_shape=("n", 2))
IS_NAN = graph(
    [helper.make_node("IsNaN", ["x"], ["missing"]), helper.make_node("Cast", ["missing"], ["y"], to=FLOAT)],
)
# Repeats its input until the answer is some 30,000 numbers long.
TALKATIVE = graph(
    [helper.make_node("Tile", ["x", "times"], ["y"])],
    output_shape=("n", "m"),
    constants=(helper.make_tensor("times", INT64, [2], [1, 30_000]),),
)
# Begins as an ONNX file does (ir_version), and goes on with a graph that is none.
GARBAGE = b"\x08\x08\x3a\x04\xde\xad\xbe\xef"


def parquet(**columns: list[Any]) -> bytes:
    buffer = io.BytesIO()
    table = {
        name: pa.array(data, pa.float32()) if name in {"x", "expected_y"} else data for name, data in columns.items()
    }
    pq.write_table(pa.table(table), buffer)
    return buffer.getvalue()


SAMPLES = parquet(x=[-1.0, 0.5, 2.0])
GOLDEN = parquet(x=[-1.0, 0.5, 2.0], expected_y=[-1.0, 0.5, 2.0])
WRONG_GOLDEN = parquet(x=[-1.0, 0.5, 2.0], expected_y=[-1.0, 0.5, 2.5])
# The identity's scores order four of the six pairs of a late and a punctual flight rightly: roc_auc 2/3.
EVALUATION = parquet(x=[0.1, 0.4, 0.35, 0.8, 0.5], label=[0, 0, 1, 1, 0], carrier=["AA", "AA", "AA", "UA", "UA"])


@dataclass
class Rig:
    """A broker, an object store, a model host and a validator, and what a test does with them."""

    kafka: KafkaSettings
    store: ObjectStore
    producer: EventProducer
    stub: Any
    folder: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    async def start(self, program: str, port: int) -> subprocess.Popen[bytes]:
        """Start a service and wait until it is healthy."""
        environment = {**os.environ, **self.environment, f"TIDEGATE_{program.upper()}_PORT": str(port)}
        log = self.folder / f"{program}.log"
        process = launched(program, environment, log)
        self.processes.append(process)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(DEADLINE_S):
            health = health_pb2_grpc.HealthStub(channel)
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=2)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return process
                except grpc.aio.AioRpcError:
                    assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.05)

    async def register(self, model: str, artifact: bytes, *, minor: int = 0, **changes: Any) -> Event:
        """Publish a ModelRegistered as the registry does, and return the event."""
        digest = changes.pop("digest", digest_of_bytes(artifact))
        policy = changes.pop("policy", None) or default_policy(model)
        files = {name: await self._stored(changes.pop(name)) for name in [*changes] if name.endswith("_uri")}
        key = f"artifacts/sha256/{digest_of_bytes(artifact).removeprefix('sha256:')}"
        uri = await self.store.put_bytes(key, artifact)
        message = pb.ModelRegistered(
            model=model,
            version=Version(major=1, minor=minor),
            artifact=Artifact(uri=uri, digest=digest, size_bytes=len(artifact), format="onnx"),
            signature=changes.pop("signature", SIGNATURE),
            policy=policy,
            policy_revision=3,
            **files,
            **changes,
        )
        event = Event(
            message=message,
            id=str(uuid.uuid4()),
            source="tidegate/registry",
            time=utc_now(),
            subject=model,
            correlation_id=f"correlation-{model}",
            sequence=minor + 1,
        )
        await self.producer.publish(event)
        return event

    async def _stored(self, data: bytes) -> str:
        return await self.store.put_bytes(f"files/sha256/{digest_of_bytes(data).removeprefix('sha256:')}", data)

    async def decisions(self, *causes: Event) -> dict[str, list[Event]]:
        """Return what the validator said about ``causes``, by the id of the cause, once all are decided."""
        consumer = AIOKafkaConsumer(
            VALIDATION.full_name(self.kafka.topic_prefix),
            bootstrap_servers=self.kafka.bootstrap,
            auto_offset_reset="earliest",
        )
        found: dict[str, list[Event]] = {cause.id: [] for cause in causes}
        await consumer.start()
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not all(any(is_final(event) for event in events) for events in found.values()):
                    for event in await fetched(consumer):
                        found.setdefault(event.causation_id, []).append(event)
        finally:
            await consumer.stop()
        return found

    async def servers(self) -> list[str]:
        """Return the ids of the servers in the sandbox."""
        return [one.spec.server_id for one in (await self.stub.ListServers(host_pb.ListServersRequest())).servers]

    async def is_empty(self) -> None:
        """Wait until the sandbox has no server, and no process of one."""

        async def is_met() -> bool:
            return not await self.servers() and not marked(self.folder)

        await until(is_met)

    def log(self, program: str) -> str:
        return (self.folder / f"{program}.log").read_text()


def launched(program: str, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen([sys.executable, "-m", f"tidegate.{program}"], env=environment, stderr=output)


async def until(is_met: Callable[[], Awaitable[Any]]) -> Any:
    """Wait until ``is_met`` gives something true, and return it."""
    async with asyncio.timeout(DEADLINE_S):
        while not (found := await is_met()):
            await asyncio.sleep(0.05)
    return found


def is_final(event: Event) -> bool:
    return isinstance(event.message, pb.ValidationFailed | pb.ModelBlessed)


async def fetched(consumer: AIOKafkaConsumer) -> list[Event]:
    batches = await consumer.getmany(timeout_ms=200)
    return [
        decode(
            topic=one.topic,
            partition=one.partition,
            offset=one.offset,
            value=one.value,
            headers=one.headers,
            received_time=utc_now(),
        )
        for records in batches.values()
        for one in records
    ]


def marked(folder: Path) -> list[int]:
    """Return the pids of processes that the model host of this test started; they inherit its mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TIDEGATE_MODEL_SERVER", "").startswith(str(folder)):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture(scope="session")
def runtime() -> None:
    """See that the shipped runtime is installed."""
    if not (RUNTIME / ".venv" / "bin" / "python").exists():
        uv = shutil.which("uv") or str(REPOSITORY / ".tools" / "bin" / "uv")
        subprocess.run([uv, "sync", "--frozen", "--project", str(RUNTIME)], check=True)


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """Return a short folder, since sockets' paths are short."""
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        yield Path(folder)


@pytest.fixture
async def rig(
    runtime: None,
    tmp_path: Path,
    socket_dir: Path,
    bus_settings: KafkaSettings,
    store_settings: ObjectStoreSettings,
) -> AsyncIterator[Rig]:
    """Return everything running; nothing is left afterwards."""
    from tidegate.stack.ports import free_ports

    host_port, validator_port = free_ports(2)
    environment = {
        "TIDEGATE_KAFKA_BOOTSTRAP": bus_settings.bootstrap,
        "TIDEGATE_KAFKA_TOPIC_PREFIX": bus_settings.topic_prefix,
        "TIDEGATE_KAFKA_PARTITION_COUNT": str(bus_settings.partition_count),
        "TIDEGATE_S3_ENDPOINT": store_settings.endpoint,
        "TIDEGATE_S3_ACCESS_KEY": store_settings.access_key.get_secret_value(),
        "TIDEGATE_S3_SECRET_KEY": store_settings.secret_key.get_secret_value(),
        "TIDEGATE_S3_BUCKET": store_settings.bucket,
        "TIDEGATE_MODELHOST_DATA_DIR": str(tmp_path / "modelhost"),
        "TIDEGATE_MODELHOST_SOCKET_DIR": str(socket_dir),
        "TIDEGATE_MODELHOST_RUNTIMES_DIR": str(RUNTIME.parent),
        "TIDEGATE_MODELHOST_STOP_GRACE_S": "2",
        "TIDEGATE_VALIDATOR_MODELHOST": f"127.0.0.1:{host_port}",
        "TIDEGATE_VALIDATOR_DATA_DIR": str(tmp_path / "validator"),
        "TIDEGATE_VALIDATOR_REQUEST_TIMEOUT_S": str(REQUEST_TIMEOUT_S),
        "TIDEGATE_VALIDATOR_ANSWER_BYTES_MAX": str(1 << 16),
    }
    async with (
        EventProducer(bus_settings, client_id="test") as producer,
        grpc.aio.insecure_channel(f"127.0.0.1:{host_port}") as channel,
    ):
        stub = host_grpc.ModelHostServiceStub(channel)
        rig = Rig(bus_settings, ObjectStore(store_settings), producer, stub, tmp_path, environment)
        try:
            await rig.start("modelhost", host_port)
            await rig.start("validator", validator_port)
            yield rig
        finally:
            for process in reversed(rig.processes):
                process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(process.wait, DEADLINE_S)
            for pid in marked(tmp_path):
                psutil.Process(pid).kill()


def metric_policy(model: str, **bounds: Any) -> Policy:
    policy = default_policy(model)
    policy.validation.metrics.append(MetricThreshold(name="roc_auc", **bounds))
    return policy


def failure(events: list[Event]) -> pb.ValidationFailed:
    (event,) = events
    assert isinstance(event.message, pb.ValidationFailed), event.message
    return event.message


def outcomes(checks: Any) -> dict[str, str]:
    return {f"{one.suite}/{one.name}": pb.Check.Outcome.Name(one.outcome).removeprefix("OUTCOME_") for one in checks}


async def test_a_good_version_is_passed_then_blessed(rig: Rig) -> None:
    policy = metric_policy("good", min=0.6)
    cause = await rig.register("good", IDENTITY, sample_requests_uri=GOLDEN, evaluation_uri=EVALUATION, policy=policy)
    passed, blessed = (await rig.decisions(cause))[cause.id]
    assert isinstance(passed.message, pb.ValidationPassed), passed.message
    assert isinstance(blessed.message, pb.ModelBlessed)
    for event, name in ((passed, "ValidationPassed"), (blessed, "ModelBlessed")):
        assert event.id == derived_event_id(name, cause.id)
        assert (event.source, event.subject) == ("tidegate/validator", "good")
        assert (event.causation_id, event.correlation_id) == (cause.id, cause.correlation_id)
    (tried,) = blessed.message.runtimes
    assert tried.runtime == "kserve-onnx"
    assert tried.mode == pb.RuntimeBlessing.MODE_LOAD_AND_QUERY
    assert min(tried.load_time_ms, tried.latency_ms_p99, tried.peak_memory_bytes) > 0
    assert tried.runtime_digest.startswith("sha256:")
    assert tried.sandbox in {"limits", "bubblewrap"}
    assert blessed.message.warmup_uri == cause.message.sample_requests_uri
    assert (blessed.message.policy, blessed.message.policy_revision) == (policy, 3)

    report = await rig.store.read(passed.message.report_uri, limit_bytes=1 << 20)
    assert digest_of_bytes(report) == passed.message.report_digest
    [metric] = json.loads(report)["metrics"]
    assert (metric["name"], metric["slice"], metric["value"]) == ("roc_auc", "", pytest.approx(2 / 3))
    await rig.is_empty()


async def test_each_way_to_be_bad_is_refused_with_its_code(rig: Rig) -> None:
    sliced = default_policy("bad-slice")
    sliced.validation.slices.append(SlicePolicy(by="carrier", min_rows=2, metric="accuracy", min=0.99))
    evaluated = {"sample_requests_uri": SAMPLES, "evaluation_uri": EVALUATION}
    cases: dict[str, tuple[bytes, dict[str, Any], str]] = {
        "bad-pickle": (pickle.dumps({"coef": [1.0]}), {}, "PICKLE_REFUSED"),
        "bad-format": (b"#!/bin/sh\n", {}, "FORMAT_UNKNOWN"),
        "bad-digest": (IDENTITY + b"\x10\x00", {"digest": digest_of_bytes(IDENTITY)}, "ARTIFACT_DIGEST_MISMATCH"),
        "bad-graph": (GARBAGE, {}, "LOAD_FAILED"),
        "bad-number": (LOGARITHM, {"sample_requests_uri": SAMPLES}, "ANSWER_NOT_FINITE"),
        "bad-shape": (TWO_COLUMNS, {"sample_requests_uri": SAMPLES}, "ANSWER_SHAPE_MISMATCH"),
        "bad-golden": (IDENTITY, {"sample_requests_uri": WRONG_GOLDEN}, "GOLDEN_MISMATCH"),
        "bad-column": (IDENTITY, {"sample_requests_uri": parquet(label=[1])}, "COLUMN_MISSING"),
        "bad-samples": (IDENTITY, {"sample_requests_uri": b"no parquet"}, "FILE_UNREADABLE"),
        "bad-metric": (IDENTITY, {**evaluated, "policy": metric_policy("bad-metric", min=0.99)}, "METRIC_BELOW_MIN"),
        "no-metric": (IDENTITY, {"policy": metric_policy("no-metric", min=0.5)}, "METRIC_MISSING"),
        "bad-slice": (IDENTITY, {**evaluated, "policy": sliced}, "SLICE_BELOW_MIN"),
    }
    causes = {model: await rig.register(model, data, **facts) for model, (data, facts, _) in cases.items()}
    decided = await rig.decisions(*causes.values())
    found = {model: {one.code for one in failure(decided[cause.id]).reasons} for model, cause in causes.items()}
    assert found == {model: {code} for model, (_, _, code) in cases.items()}
    assert failure(decided[causes["bad-graph"].id]).log_tail
    await rig.is_empty()


def one_op(node: Any, inputs: dict[str, tuple[int, list[Any]]], output: tuple[int, list[Any]]) -> bytes:
    """Return a model of one node, whose inputs and output y have these types and shapes."""
    infos = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    made = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info("y", *output)])
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())


def spec(name: str, datatype: str, *shape: int) -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=shape)


def lines(*requests: tuple[dict[str, Any], list[Any]]) -> bytes:
    """Return JSON Lines of inputs (name -> datatype, shape, data) and the y that is expected."""
    documents = [
        {
            "inputs": [
                {"name": name, "datatype": kind, "shape": shape, "data": data}
                for name, (kind, shape, data) in inputs.items()
            ],
            "expected": [{"name": "y", "datatype": expected[0], "shape": expected[1], "data": expected[2]}],
        }
        for inputs, expected in requests
    ]
    return "\n".join(json.dumps(document) for document in documents).encode()


async def test_models_of_every_shape_are_queried_and_measured(rig: Rig) -> None:
    half = TensorProto.FLOAT16
    scalar = one_op(
        helper.make_node("Mul", ["x", "rate"], ["y"]), {"x": (FLOAT, ["n"]), "rate": (FLOAT, [])}, (FLOAT, ["n"])
    )
    tokens = one_op(helper.make_node("Identity", ["ids"], ["y"]), {"ids": (INT64, ["n", "m"])}, (INT64, ["n", "m"]))
    halves = one_op(helper.make_node("Add", ["x", "x"], ["y"]), {"x": (half, ["n", 2])}, (half, ["n", 2]))
    fixed = one_op(
        helper.make_node("ReduceMax", ["X"], ["y"], axes=[1], keepdims=0), {"X": (FLOAT, [1, 2])}, (FLOAT, [1])
    )
    classes = one_op(helper.make_node("Softmax", ["X"], ["y"], axis=1), {"X": (FLOAT, ["n", 3])}, (FLOAT, ["n", 3]))
    accurate = default_policy("classes")
    accurate.validation.metrics.add(name="accuracy", min=0.7)
    measured = default_policy("fixed")
    measured.validation.metrics.add(name="accuracy", min=1.0)
    vectors = pa.table({"X": [[3.0, 1, 1], [1.0, 3, 1], [1.0, 1, 3], [3.0, 1, 1]], "label": [0, 1, 2, 2]})
    pairs = pa.table({"X": [[0.1, 0.2], [0.9, 0.3], [0.2, 0.7]], "label": [0, 1, 1]})
    cases: dict[str, tuple[bytes, list[Tensor], Tensor, dict[str, Any]]] = {
        "scalar": (
            scalar,
            [spec("x", "FP32", -1), spec("rate", "FP32")],
            spec("y", "FP32", -1),
            {
                "sample_requests_uri": lines(
                    ({"x": ("FP32", [2], [1, 2]), "rate": ("FP32", [], 3)}, ["FP32", [2], [3, 6]])
                )
            },
        ),
        "tokens": (
            tokens,
            [spec("ids", "INT64", -1, -1)],
            spec("y", "INT64", -1, -1),
            {
                "sample_requests_uri": lines(
                    ({"ids": ("INT64", [1, 3], [1, 2, 3])}, ["INT64", [1, 3], [1, 2, 3]]),
                    ({"ids": ("INT64", [2, 1], [[4], [5]])}, ["INT64", [2, 1], [[4], [5]]]),
                )
            },
        ),
        "ragged": (
            tokens,
            [spec("ids", "INT64", -1, -1)],
            spec("y", "INT64", -1, -1),
            {"sample_requests_uri": stored_table(pa.table({"ids": [[1, 2, 3], [4]], "expected_y": [[1, 2, 3], [4]]}))},
        ),
        "halves": (
            halves,
            [spec("x", "FP16", -1, 2)],
            spec("y", "FP16", -1, 2),
            {"sample_requests_uri": stored_table(pa.table({"x": [[0.5, 1.0]], "expected_y": [[1.0, 2.0]]}))},
        ),
        "fixed": (
            fixed,
            [spec("X", "FP32", 1, 2)],
            spec("y", "FP32", 1),
            {"evaluation_uri": stored_table(pairs), "policy": measured},
        ),
        "classes": (
            classes,
            [spec("X", "FP32", -1, 3)],
            spec("y", "FP32", -1, 3),
            {"evaluation_uri": stored_table(vectors), "policy": accurate},
        ),
    }
    causes = {
        model: await rig.register(model, data, signature=Signature(inputs=inputs, outputs=[output]), **facts)
        for model, (data, inputs, output, facts) in cases.items()
    }
    decided = await rig.decisions(*causes.values())
    for model, cause in causes.items():
        assert isinstance(decided[cause.id][-1].message, pb.ModelBlessed), (model, decided[cause.id][-1].message)
    found = outcomes(decided[causes["classes"].id][0].message.checks)
    assert found["metrics/accuracy"] == "PASSED"
    await rig.is_empty()


def stored_table(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


async def test_a_refused_evaluation_is_told_with_the_servers_answer(rig: Rig) -> None:
    policy = metric_policy("refused", min=0.5)
    wrong = parquet(x=[0.1, 0.2], label=[0, 1])
    cause = await rig.register(
        "refused",
        IDENTITY,
        evaluation_uri=wrong,
        policy=policy,
        signature=Signature(inputs=[spec("x", "INT64", -1, 1)], outputs=[spec("y", "FP32", -1, 1)]),
    )
    reasons = failure((await rig.decisions(cause))[cause.id]).reasons
    assert [one.code for one in reasons] == ["COLUMN_DATATYPE_MISMATCH"]
    takes_more = one_op(
        helper.make_node("Add", ["x", "z"], ["y"]), {"x": (FLOAT, ["n", 1]), "z": (FLOAT, ["n", 1])}, (FLOAT, ["n", 1])
    )
    cause = await rig.register("refused", takes_more, minor=1, evaluation_uri=wrong, policy=policy)
    (reason,) = failure((await rig.decisions(cause))[cause.id]).reasons
    assert reason.code == "METRIC_MISSING"
    assert "evaluation rows 0 to 1" in reason.message
    assert "expected each of ['x', 'z'] once" in reason.message
    await rig.is_empty()


async def test_missing_values_reach_the_model_as_nan(rig: Rig) -> None:
    # IsNaN(x): the answer is 1 only where the row's value was missing; JSON could not carry it.
    cause = await rig.register("missing", IS_NAN, sample_requests_uri=parquet(x=[0.5, None], expected_y=[0.0, 1.0]))
    assert isinstance((await rig.decisions(cause))[cause.id][-1].message, pb.ModelBlessed)
    await rig.is_empty()


async def test_an_answer_beyond_the_limit_is_refused_and_not_read_to_its_end(rig: Rig) -> None:
    cause = await rig.register("talks", TALKATIVE, sample_requests_uri=SAMPLES)
    failed = failure((await rig.decisions(cause))[cause.id])
    assert [one.code for one in failed.reasons] == ["ANSWER_TOO_LARGE"]
    await rig.is_empty()


async def test_a_model_that_hangs_is_ended_and_refused(rig: Rig) -> None:
    cause = await rig.register("hangs", endless(), sample_requests_uri=SAMPLES)
    failed = failure((await rig.decisions(cause))[cause.id])
    assert [one.code for one in failed.reasons] == ["QUERY_TIMEOUT"]
    await rig.is_empty()


async def test_a_version_is_held_against_stable_on_the_same_data(rig: Rig) -> None:
    same_data = [Metric(name="roc_auc", value=0.7, higher_is_better=True, dataset_digest="sha256:" + "d" * 64)]
    facts = {"evaluation_uri": EVALUATION, "policy": metric_policy("held", max_drop=0.1), "metrics": same_data}
    first = await rig.register("held", IDENTITY, **facts)
    moved = pb.AliasMoved(model="held", alias="stable", version=Version(major=1))
    event = Event(
        message=moved, id=str(uuid.uuid4()), source="test", time=utc_now(), subject="held", correlation_id="move"
    )
    await rig.producer.publish(event)
    worse = await rig.register("held", NEGATION, minor=1, **facts)
    decided = await rig.decisions(first, worse)
    assert isinstance(decided[first.id][-1].message, pb.ModelBlessed)
    assert [one.code for one in failure(decided[worse.id]).reasons] == ["METRIC_DROPPED"]


def table_of(rows: int) -> bytes:
    """Return a model that looks y [n, 1] up by x [n, 1] (INT64) in a table of ``rows`` rows, and refuses any other x."""
    infos = [helper.make_tensor_value_info("x", INT64, ["n", 1])]
    outputs = [helper.make_tensor_value_info("y", FLOAT, ["n", 1])]
    table = helper.make_tensor("table", FLOAT, [rows], [float(row) for row in range(rows)])
    made = helper.make_graph([helper.make_node("Gather", ["table", "x"], ["y"])], "g", infos, outputs, [table])
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())


def codes_signature(datatype: str) -> Signature:
    return Signature(inputs=[spec("x", datatype, -1, 1)], outputs=[spec("y", "FP32", -1, 1)])


def codes(*values: int) -> bytes:
    return stored_table(pa.table({"x": list(values)}))


def first(**facts: Any) -> dict[str, Any]:
    return {"change": Change.CHANGE_FIRST, "signature": codes_signature("INT32"), **facts}


def after(minor: int, **facts: Any) -> dict[str, Any]:
    """Return what makes a registration one that takes over the callers of 1.``minor``.0."""
    taken = {"change": Change.CHANGE_MINOR, "baseline": Version(major=1, minor=minor), "minor": minor + 1}
    return {"signature": codes_signature("INT64"), **taken, **facts}


def of_callers(message: Any) -> tuple[str, str]:
    """Return how the check for callers came out, and the reason code of the refusal, if there is one."""
    (check,) = (one for one in message.checks if one.suite == "callers")
    ((_, outcome),) = outcomes([check]).items()
    return outcome, ",".join(one.code for one in getattr(message, "reasons", []))


async def test_a_version_is_asked_what_callers_of_its_baseline_send(rig: Rig) -> None:
    def cast(kind: int) -> bytes:
        return one_op(helper.make_node("Cast", ["x"], ["y"], to=FLOAT), {"x": (kind, ["n", 1])}, (FLOAT, ["n", 1]))

    mine, theirs = {"sample_requests_uri": codes(0, 1)}, {"sample_requests_uri": codes(2, 3)}
    double = TensorProto.DOUBLE
    logarithm = one_op(helper.make_node("Log", ["x"], ["y"]), {"x": (double, ["n", 1])}, (double, ["n", 1]))
    doubles = Signature(inputs=[spec("x", "FP64", -1, 1)], outputs=[spec("y", "FP64", -1, 1)])
    # By model: the baseline's artifact and facts, the new version's, and what comes of it.
    cases: dict[str, tuple[bytes, dict[str, Any], bytes, dict[str, Any], tuple[str, str]]] = {
        # A wider type is compatible, and the shipped runtime casts.
        "wider": (table_of(4), first(**theirs), cast(INT64), after(0, **mine), ("PASSED", "")),
        "refuses": (table_of(4), first(**theirs), table_of(3), after(0, **mine), ("FAILED", "CALLERS_BREAK")),
        "another-line": (
            table_of(4),
            first(**theirs),
            table_of(3),
            after(0, **mine, change=Change.CHANGE_MAJOR),
            ("SKIPPED", ""),
        ),
        # Nothing recorded: what the signature allows is sent, and refused in the old form alone.
        "narrower": (
            cast(INT64),
            first(),
            cast(TensorProto.UINT8),
            after(0, signature=codes_signature("UINT8")),
            ("FAILED", "CALLERS_BREAK"),
        ),
        # Values that are made up say nothing where the new form is refused as well: log 0 is no number.
        "made-up": (IDENTITY, first(signature=SIGNATURE), logarithm, after(0, signature=doubles), ("SKIPPED", "")),
    }
    for model, (data, facts, *_) in cases.items():
        await rig.register(model, data, **facts)
    causes = {model: await rig.register(model, data, **facts) for model, (_, _, data, facts, _) in cases.items()}
    decided = await rig.decisions(*causes.values())
    found = {model: of_callers(decided[cause.id][0].message) for model, cause in causes.items()}
    assert found == {model: wanted for model, (*_, wanted) in cases.items()}
    (reason,) = failure(decided[causes["refuses"].id]).reasons
    assert "HTTP 400" in reason.message
    assert "request 2 of 2 sample requests of 1.0.0" in reason.message
    await rig.is_empty()


async def test_callers_are_those_of_the_last_blessed_version_also_after_a_restart(rig: Rig) -> None:
    from tidegate.stack.ports import free_ports

    blessed = await rig.register("again", table_of(4), **first(sample_requests_uri=codes(2, 3)))
    refused = await rig.register("again", GARBAGE, **after(0, sample_requests_uri=codes(0)))
    before = await rig.decisions(blessed, refused)
    assert isinstance(before[blessed.id][-1].message, pb.ModelBlessed)
    assert [one.code for one in failure(before[refused.id]).reasons] == ["LOAD_FAILED"]
    validator = rig.processes.pop()
    validator.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(validator.wait, DEADLINE_S) == 0, rig.log("validator")
    await rig.start("validator", free_ports(1)[0])
    cause = await rig.register("again", table_of(3), **after(1, sample_requests_uri=codes(0)))
    message = failure((await rig.decisions(cause))[cause.id])
    assert of_callers(message) == ("FAILED", "CALLERS_BREAK")
    assert "callers of 1.0.0" in message.reasons[0].message


async def test_a_version_without_samples_is_only_loaded(rig: Rig) -> None:
    cause = await rig.register("bare", IDENTITY)
    passed, blessed = (await rig.decisions(cause))[cause.id]
    assert blessed.message.runtimes[0].mode == pb.RuntimeBlessing.MODE_LOAD_ONLY
    assert outcomes(passed.message.checks)["infrastructure/kserve-onnx: answers"] == "SKIPPED"


async def test_a_redelivered_event_is_decided_once(rig: Rig) -> None:
    cause = await rig.register("again", GARBAGE)
    await rig.producer.publish(cause)
    after = await rig.register("again", b"#!/bin/sh\n", minor=1)  # same partition: decided after the second delivery
    decided = await rig.decisions(cause, after)
    assert [event.id for event in decided[cause.id]] == [derived_event_id("ValidationFailed", cause.id)]


async def test_a_validator_that_is_told_to_stop_leaves_no_server(rig: Rig) -> None:
    validator = rig.processes[-1]
    await rig.register("hangs", endless(), sample_requests_uri=SAMPLES)
    await until(rig.servers)
    validator.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(validator.wait, DEADLINE_S) == 0, rig.log("validator")
    await rig.is_empty()
    rig.processes.remove(validator)


async def test_what_a_killed_validator_left_is_ended_and_tried_again(rig: Rig) -> None:
    from tidegate.stack.ports import free_ports

    validator = rig.processes[-1]
    cause = await rig.register("killed", endless(), sample_requests_uri=SAMPLES)
    await until(rig.servers)
    validator.kill()
    await asyncio.to_thread(validator.wait, DEADLINE_S)
    rig.processes.remove(validator)
    assert await rig.servers() == ["validation-killed@1.0.0"]
    await rig.start("validator", free_ports(1)[0])
    assert [one.code for one in failure((await rig.decisions(cause))[cause.id]).reasons] == ["QUERY_TIMEOUT"]
    await rig.is_empty()
