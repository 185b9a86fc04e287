"""What a model predicted, one value a row, and metrics of it: pure.

Scores come from the first floating output: of shape [n, 2] its second column (the positive class), of one value a row
the value itself. Classes come from the first output of another datatype that has one value a row (the label that
classifiers answer with), else from the largest class probability, as its index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tidegate.v1.values_pb2 import Signature
from tidegate.validator.quality import METRICS, Array
from tidegate.validator.queries import array_of

FLOATING: Final = frozenset({"FP16", "FP32", "FP64"})
CLASSES_OF_BINARY: Final = 2

# By metric: its value, or why there is none.
Measured = float | str


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """One value a row, or None where the outputs tell none; ``indexed`` says that classes are positions."""

    scores: Array | None = None
    classes: np.ndarray[Any, Any] | None = None
    indexed: bool = False
    told: str = ""


def predictions_of(signature: Signature, bodies: Sequence[Mapping[str, Any]], row_count: int) -> Predictions:
    """Return the predictions in the answers ``bodies``, cut to ``row_count`` rows."""
    scores, indexes, told = None, None, "no output of the signature is floating"
    floating = next((output.name for output in signature.outputs if output.datatype in FLOATING), "")
    if floating:
        rows = _rows(bodies, floating, np.float64)
        told = (
            f"output {floating!r} has no answer of one shape"
            if rows is None
            else f"output {floating!r} of {rows.shape}"
        )
        if rows is not None:
            rows = rows[:row_count].reshape(min(len(rows), row_count), -1)
            if rows.shape[1] == 1:
                scores = rows[:, 0]
            elif rows.shape[1] == CLASSES_OF_BINARY:
                scores = rows[:, 1]
            if rows.shape[1] >= CLASSES_OF_BINARY:
                indexes = rows.argmax(axis=1)
    labels = _labels(signature, bodies, row_count)
    if labels is not None:
        return Predictions(scores=scores, classes=labels, told=told)
    return Predictions(scores=scores, classes=indexes, indexed=indexes is not None, told=told)


def _labels(signature: Signature, bodies: Sequence[Mapping[str, Any]], row_count: int) -> np.ndarray[Any, Any] | None:
    for output in signature.outputs:
        if output.datatype not in FLOATING:
            rows = _rows(bodies, output.name, None)
            if rows is not None and rows.size == len(rows):
                return rows.reshape(-1)[:row_count]
    return None


def _rows(bodies: Sequence[Mapping[str, Any]], name: str, dtype: Any) -> np.ndarray[Any, Any] | None:
    """Return the answers of one output below one another, or None where they do not fit."""
    try:
        parts = [np.asarray(array_of(dict(body), name), dtype=dtype) for body in bodies]
        return np.concatenate([np.atleast_1d(part) for part in parts]) if parts else None
    except (TypeError, ValueError):
        return None


def measure(name: str, labels: np.ndarray[Any, Any], predictions: Predictions) -> Measured:
    """Return metric ``name`` of ``labels`` (numbers, or text) and ``predictions``, or why it can't be computed."""
    if name not in METRICS:
        return f"{name} is none of the metrics that are computed here: {', '.join(sorted(METRICS))}"
    numeric = labels.dtype.kind == "f"
    if predictions.scores is not None and numeric:
        if len(predictions.scores) != len(labels):
            return f"the server answered {len(predictions.scores)} scores for {len(labels)} labels"
        return METRICS[name](labels, predictions.scores)
    if name != "accuracy":
        what = "labels are text" if predictions.scores is not None else predictions.told
        return f"{name} needs labels that are numbers and one score a row; {what}"
    return _class_accuracy(labels, predictions)


def _class_accuracy(labels: np.ndarray[Any, Any], predictions: Predictions) -> Measured:
    classes = predictions.classes
    if classes is None:
        return f"accuracy needs one score, class probabilities or a label a row; {predictions.told}"
    if len(classes) != len(labels):
        return f"the server answered {len(classes)} classes for {len(labels)} labels"
    if labels.dtype.kind == "f":
        try:
            return float(np.mean(classes.astype(np.float64) == labels))
        except (TypeError, ValueError):
            return f"the labels are numbers, and the model's are not: {str(classes[0])!r:.40}"
    if predictions.indexed:
        return "the labels are text, and the model answers class probabilities without a label output to name them"
    return float(np.mean(classes.astype(str) == labels.astype(str)))
