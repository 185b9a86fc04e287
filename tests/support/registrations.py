"""What producers send to a registry under test: small models, evaluations, and the events around them."""

from __future__ import annotations

import hashlib
import io
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import ModelProto, TensorProto, helper

from tidegate.contracts.codec import Event
from tidegate.core.clock import utc_now
from tidegate.v1.events_pb2 import TrainingCompleted
from tidegate.v1.values_pb2 import Artifact, Metric, ModelCard, Signature, Tensor

MODEL = "flight-delay"
EXAMPLES = 1000
DATASET = "sha256:" + "d" * 64


def onnx_bytes(name: str = "identity", *, padding: int = 0) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        doc_string="x" * padding,
    )
    return helper.make_model(graph, ir_version=9).SerializeToString()


def external_bytes() -> bytes:
    """Return a model whose weights are in another file: the one named by another artifact's digest."""
    model = ModelProto.FromString(onnx_bytes("external"))
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[16])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="a" * 64)
    return model.SerializeToString()


def maps_bytes() -> bytes:
    """Return a model that answers with a sequence of maps, as a converted classifier does by default."""
    model = ModelProto.FromString(onnx_bytes("maps"))
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(maps))
    return model.SerializeToString()


def evaluation_bytes(seed: int, *, noise: float) -> bytes:
    labels = np.arange(EXAMPLES) % 2
    scores = labels + np.random.default_rng(seed).normal(size=EXAMPLES) * noise
    stream = io.BytesIO()
    pq.write_table(pa.table({"label": labels, "score": scores}), stream)
    return stream.getvalue()


def upload(site, key: str, data: bytes) -> str:
    site.objects.put_object(
        bucket_name=site.s3.bucket, object_name=f"uploads/{key}", data=io.BytesIO(data), length=len(data)
    )
    return f"s3://{site.s3.bucket}/uploads/{key}"


def training(site, name: str, data: bytes | None = None, *, noise: float = 1.0, **changes) -> TrainingCompleted:
    data = onnx_bytes(name) if data is None else data
    message = TrainingCompleted(
        model=MODEL,
        artifact=Artifact(uri=upload(site, name, data), digest=digest(data), size_bytes=len(data), format="onnx"),
        signature=Signature(
            inputs=[Tensor(name="x", datatype="FP32", shape=[-1, 1])],
            outputs=[Tensor(name="y", datatype="FP32", shape=[-1, 1])],
            target_id="late",
        ),
        metrics=[Metric(name="roc_auc", value=0.7, higher_is_better=True, dataset_digest=DATASET)],
        evaluation_uri=upload(site, f"{name}.parquet", evaluation_bytes(len(name), noise=noise)),
        card=ModelCard(description="a model", owner="us"),
    )
    for field, value in changes.items():
        if hasattr(value, "DESCRIPTOR"):
            getattr(message, field).MergeFrom(value)
        else:
            setattr(message, field, value)
    return message


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def event(message, **changes) -> Event:
    event_id = str(uuid.uuid4())
    standard = {"source": "test", "subject": message.model or "none", "time": utc_now(), "sequence": 0}
    return Event(message=message, id=event_id, correlation_id=event_id, **(standard | changes))


async def publish(site, message, *, as_json: bool = False, **changes):
    """Publish and return the registry's answer."""
    sent = event(message, **changes)
    await site.producer.publish(sent, as_json=as_json)
    return await site.answer_to(sent.correlation_id)
