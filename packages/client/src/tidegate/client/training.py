"""What a producer says when a training is finished, and its files."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import yaml
from google.protobuf import json_format

from tidegate.contracts.names import MODEL_PATTERN, is_model
from tidegate.core.errors import InvalidInput
from tidegate.v1.events_pb2 import TrainingCompleted
from tidegate.v1.values_pb2 import Lineage, Metric, ModelCard, Signature

SCORE_COLUMN: Final = "score"
FILE_KEYS: Final = ("artifact", "evaluation", "reference_data", "sample_requests")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRun:
    """A finished training: facts, and files that are still on this machine."""

    model: str
    artifact: Path
    signature: Signature
    lineage: Lineage = field(default_factory=Lineage)
    metrics: tuple[Metric, ...] = ()
    evaluation: Path | None = None
    reference_data: Path | None = None
    sample_requests: Path | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    card: ModelCard = field(default_factory=ModelCard)
    request_id: str = ""
    major_line: int = 0

    def files(self) -> dict[str, Path]:
        """Return the files by the names in FILE_KEYS."""
        named = {name: getattr(self, name) for name in FILE_KEYS}
        return {name: path for name, path in named.items() if path is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What the producer keeps: everything that follows carries ``correlation_id``."""

    model: str
    request_id: str
    correlation_id: str
    artifact_digest: str
    publish_time: datetime


def read_training_file(path: Path) -> TrainingRun:
    """Return the training that the YAML at ``path`` describes; its file names are relative to it.

    The keys are those of ``TrainingCompleted``, with ``artifact``, ``evaluation``, ``reference_data`` and
    ``sample_requests`` naming files.

    Raises:
        InvalidInput: It can't be read, lacks a key, or has one that trainings do not have.

    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} can't be read: {error}", code="TRAINING_UNREADABLE") from None
    if not isinstance(document, dict):
        raise InvalidInput(f"{path} holds a {type(document).__name__}, expected a mapping", code="TRAINING_UNREADABLE")
    return training_from_mapping(document, folder=path.parent)


def training_from_mapping(document: Mapping[str, Any], *, folder: Path) -> TrainingRun:
    """Return the training that ``document`` describes; files are relative to ``folder``.

    Raises:
        InvalidInput: As :func:`read_training_file`.

    """
    facts = {key: value for key, value in document.items() if key not in FILE_KEYS}
    try:
        message = json_format.ParseDict(facts, TrainingCompleted())
    except json_format.ParseError as error:
        raise InvalidInput(f"the training has a fault: {error}", code="TRAINING_UNREADABLE") from None
    files = {key: folder / str(document[key]) for key in FILE_KEYS if document.get(key)}
    if "artifact" not in files:
        raise InvalidInput(
            "artifact is missing, expected the file of the model",
            code="TRAINING_INCOMPLETE",
            field="artifact",
            hint="name it with --artifact or as `artifact:` in the training's file",
        )
    return TrainingRun(
        model=message.model,
        signature=message.signature,
        lineage=message.lineage,
        metrics=tuple(message.metrics),
        tags=dict(message.tags),
        card=message.card,
        request_id=message.request_id,
        major_line=message.major_line,
        **files,
    )


def check_training(run: TrainingRun) -> None:
    """Refuse what can't be published.

    Raises:
        InvalidInput: The model has no legal name, or a file does not exist.

    """
    if not is_model(run.model):
        raise InvalidInput(
            f"model is {run.model!r}, expected a name like {MODEL_PATTERN}", code="MODEL_NAME_INVALID", field="model"
        )
    for name, path in run.files().items():
        if not path.is_file():
            raise InvalidInput(f"{name} is {str(path)!r}, which is no file", code="FILE_MISSING", field=name)


def evaluation_digest(path: Path) -> str:
    """Return the digest of the evaluation data at ``path`` without its scores.

    Two versions that were evaluated on the same examples have the same digest, whatever they answered. It is the
    sha256 of the columns but ``score``, sorted by name, as CSV; lists (vectors) and other values that CSV can't carry
    stand there as JSON.

    Raises:
        InvalidInput: The file is no Parquet, or has a column that is neither plain nor a list.

    """
    # Imported here: most commands need not wait for it.
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import csv, parquet  # noqa: PLC0415

    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(
            f"{path} is not Parquet: {error}", code="EVALUATION_UNREADABLE", field="evaluation_uri"
        ) from None
    names = sorted(name for name in table.column_names if name != SCORE_COLUMN)
    text = io.BytesIO()
    try:
        csv.write_csv(pa.table({name: _plain(table[name]) for name in names}), text)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidInput(
            f"{path} has a column of which no digest can be made: {error}",
            code="EVALUATION_UNREADABLE",
            field="evaluation_uri",
            hint="keep numbers, texts, booleans, times, and lists of them",
        ) from None
    return "sha256:" + hashlib.sha256(text.getvalue()).hexdigest()


def _plain(column: Any) -> Any:
    """Return ``column`` with values that CSV carries."""
    import pyarrow as pa  # noqa: PLC0415

    if not pa.types.is_nested(column.type) and not isinstance(column.type, pa.BaseExtensionType):
        return column
    return pa.array([json.dumps(value, default=_text, sort_keys=True) for value in column.to_pylist()], pa.string())


def _text(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value.tolist() if hasattr(value, "tolist") else str(value)


def completed_metrics(run: TrainingRun) -> tuple[Metric, ...]:
    """Return the metrics of ``run``, with the evaluation's digest and row count where they say none."""
    if run.evaluation is None:
        return run.metrics
    from pyarrow import parquet  # noqa: PLC0415

    digest = evaluation_digest(run.evaluation)
    row_count = parquet.read_metadata(run.evaluation).num_rows
    completed = []
    for metric in run.metrics:
        whole = Metric()
        whole.CopyFrom(metric)
        whole.dataset_digest = metric.dataset_digest or digest
        whole.sample_count = metric.sample_count or (0 if metric.slice else row_count)
        completed.append(whole)
    return tuple(completed)


def new_request_id() -> str:
    """Return an id that nobody has used."""
    return str(uuid.uuid4())
