"""The policy's metrics of a version, overall and by slice, from its evaluation and the server's answers: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from tidegate.core.errors import InvalidInput
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.values_pb2 import Signature
from tidegate.validator.demands import MetricValues
from tidegate.validator.inference import rows_at_once
from tidegate.validator.predictions import Predictions, measure
from tidegate.validator.quality import METRICS
from tidegate.validator.queries import LABEL


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """Values by metric and slice, and why a metric (or, under "", every one) has none."""

    values: MetricValues = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def evaluation_fault(evaluation: pa.Table | None) -> str:
    """Return why nothing can be measured on this evaluation; empty = it can."""
    if evaluation is None:
        return "no evaluation came with the version; evaluation data with labels is needed"
    if LABEL not in evaluation.column_names:
        return f"the evaluation has no column {LABEL!r}, it has {evaluation.column_names}"
    return "" if evaluation.num_rows else "the evaluation has no rows"


def filled_up(rows: pa.Table, count: int, signature: Signature) -> pa.Table:
    """Return ``rows``, its last one repeated up to ``count`` where the model takes just so many at once."""
    if rows.num_rows == count or rows_at_once(signature, 0) != count:
        return rows
    return pa.concat_tables([rows, *[rows.slice(rows.num_rows - 1, 1)] * (count - rows.num_rows)])


def measurements(registered: ModelRegistered, rows: pa.Table, predictions: Predictions) -> Measurements:
    """Return what the policy wants measured of ``predictions`` for ``rows``.

    Raises:
        InvalidInput: The labels are neither numbers nor text (code LABEL_NOT_NUMERIC).

    """
    labels = _labels(rows)
    validation = registered.policy.validation
    names = {wanted.name for wanted in validation.metrics} | {registered.policy.registration.gate_metric.name}
    values: MetricValues = {}
    missing: dict[str, str] = {}
    for name in sorted(names - {""}):
        found = measure(name, labels, predictions)
        if isinstance(found, str):
            missing[name] = found
        else:
            values[name, ""] = found
    values.update(_slices(registered, rows, labels, predictions))
    return Measurements(values=values, missing=missing)


def _slices(
    registered: ModelRegistered, rows: pa.Table, labels: np.ndarray[Any, Any], predictions: Predictions
) -> Iterator[tuple[tuple[str, str], float]]:
    for of_slice in registered.policy.validation.slices:
        if of_slice.by not in rows.column_names or of_slice.metric not in METRICS:
            continue
        column = np.asarray([str(value) for value in rows[of_slice.by].to_pylist()])
        for value in sorted(set(column.tolist())):
            chosen = column == value
            if chosen.sum() < of_slice.min_rows:
                continue
            found = measure(of_slice.metric, labels[chosen], _chosen(predictions, chosen))
            # One class only, or nothing to compute from: nothing can be said about this slice.
            if not isinstance(found, str) and not np.isnan(found):
                yield (of_slice.metric, f"{of_slice.by}={value}"), found


def _chosen(predictions: Predictions, chosen: np.ndarray[Any, Any]) -> Predictions:
    scores, classes = (
        values[chosen] if values is not None and len(values) == len(chosen) else None
        for values in (predictions.scores, predictions.classes)
    )
    return Predictions(scores=scores, classes=classes, indexed=predictions.indexed, told=predictions.told)


def _labels(rows: pa.Table) -> np.ndarray[Any, Any]:
    """Return the labels as numbers, or as text."""
    column = rows[LABEL]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.asarray(column.to_pylist(), dtype=str)
    try:
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.uint8())
        return np.asarray(column.cast(pa.float64()), dtype=np.float64)
    except (pa.ArrowException, ValueError) as error:
        raise InvalidInput(
            f"column {LABEL!r} of the evaluation is neither number nor text: {error}",
            code="LABEL_NOT_NUMERIC",
            field="evaluation_uri",
        ) from None
