"""Tiny models for the benchmarks: eight inputs, a probability, and the first input again, which tells answers apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper
from pyarrow import parquet

from tidegate.client import TrainingRun
from tidegate.v1.values_pb2 import Lineage, Metric, ModelCard, Signature, Tensor

MODEL: Final = "bench"
INPUTS: Final = tuple(f"input_{number}" for number in range(8))
OUTPUT: Final = "probability"
ECHO: Final = "echo"
ROWS: Final = 200
SAMPLE_ROWS: Final = 10
OPSET: Final = 18
IR_VERSION: Final = 9
SEED: Final = 20_130_601


def body(sequence: int) -> bytes:
    """Return the prediction request number ``sequence``; a right answer has that number in its output ECHO."""
    values = [float(sequence), *(0.125 * place for place in range(1, len(INPUTS)))]
    inputs = [
        {"name": name, "shape": [1, 1], "datatype": "FP32", "data": [value]}
        for name, value in zip(INPUTS, values, strict=True)
    ]
    return json.dumps({"inputs": inputs}).encode()


def echo_of(answer: bytes) -> int:
    """Return the number of the request that ``answer`` belongs to.

    Raises:
        ValueError: It is no answer of these models.

    """
    try:
        outputs = {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}
        return int(outputs[ECHO][0])
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"the answer is {answer[:200]!r}, expected an output {ECHO}") from error


def _weights(number: int) -> np.ndarray:
    # A little different for each training, so that each is a version of its own.
    return (np.linspace(-1.0, 1.0, len(INPUTS)) + 1e-3 * number).astype(np.float32).reshape(-1, 1)


def export(number: int) -> bytes:
    """Return training number ``number`` as an ONNX model."""
    nodes = [
        helper.make_node("Concat", [*INPUTS], ["features"], axis=1),
        helper.make_node("MatMul", ["features", "weights"], ["score"]),
        helper.make_node("Sigmoid", ["score"], [OUTPUT]),
        helper.make_node("Identity", [INPUTS[0]], [ECHO]),
    ]
    graph = helper.make_graph(
        nodes,
        MODEL,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in INPUTS],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in (OUTPUT, ECHO)],
        [numpy_helper.from_array(_weights(number), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString(deterministic=True))


def training(number: int, folder: Path, *, model: str = MODEL) -> TrainingRun:
    """Write the files of training number ``number`` and return what its producer publishes."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(SEED)
    features = random.normal(size=(ROWS, len(INPUTS))).astype(np.float32)
    scores = 1.0 / (1.0 + np.exp(-(features @ _weights(number))[:, 0]))
    labels = (random.uniform(size=ROWS) < scores).astype(np.int64)
    columns = {name: features[:, [place]][:, 0] for place, name in enumerate(INPUTS)}
    artifact = folder / "model.onnx"
    artifact.write_bytes(export(number))
    samples = pa.table(
        {name: column[:SAMPLE_ROWS] for name, column in columns.items()}
        | {f"expected_{OUTPUT}": scores[:SAMPLE_ROWS].astype(np.float32)}
    )
    return TrainingRun(
        model=model,
        artifact=artifact,
        signature=Signature(
            inputs=[Tensor(name=name, datatype="FP32", shape=[-1, 1]) for name in INPUTS],
            outputs=[Tensor(name=name, datatype="FP32", shape=[-1, 1]) for name in (OUTPUT, ECHO)],
            target_id="bench",
        ),
        lineage=Lineage(pipeline_name="bench"),
        metrics=(Metric(name="roc_auc", value=_roc_auc(labels, scores), higher_is_better=True),),
        evaluation=_written(
            folder / "evaluation.parquet",
            pa.table(columns | {"label": labels, "example_id": np.arange(ROWS), "score": scores}),
        ),
        sample_requests=_written(folder / "samples.parquet", samples),
        card=ModelCard(owner="bench", description=f"training {number}"),
    )


def _written(path: Path, table: pa.Table) -> Path:
    parquet.write_table(table, path)
    return path


def _roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return how often a positive example scores above a negative one (no two score the same)."""
    ranks = scores.argsort().argsort() + 1
    positive = int(labels.sum())
    above = ranks[labels == 1].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(labels) - positive)))


def check(data: bytes) -> None:
    """Raise onnx's error if ``data`` is no legal model."""
    onnx.checker.check_model(onnx.load_from_string(data))
