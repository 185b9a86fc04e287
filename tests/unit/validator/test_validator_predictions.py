"""What counts as score and class of an answer, and that a metric which can't be computed says why."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.policy_pb2 import MetricThreshold, Policy
from tidegate.v1.values_pb2 import Signature, Tensor
from tidegate.validator.inference import request_for, rows_at_once
from tidegate.validator.measuring import evaluation_fault, filled_up, measurements
from tidegate.validator.predictions import measure, predictions_of


def output(name, datatype, shape, data):
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": list(data)}


def signature(*outputs):
    return Signature(outputs=[Tensor(name=name, datatype=datatype) for name, datatype in outputs])


def predicted(outputs, *, rows=3):
    made = signature(*((one["name"], one["datatype"]) for one in outputs))
    return predictions_of(made, [{"outputs": outputs}], rows)


THREE = output("p", "FP32", (3, 3), [0.8, 0.1, 0.1, 0.2, 0.7, 0.1, 0.1, 0.1, 0.8])
LABELS = np.array([0.0, 1.0, 2.0])


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_a_single_score_is_taken_as_it_is(shape):
    assert predicted([output("p", "FP64", shape, [0.1, 0.2, 0.3])]).scores.tolist() == [0.1, 0.2, 0.3]


def test_of_two_probabilities_the_positive_class_counts():
    found = predicted([output("p", "FP64", (2, 2), [0.9, 0.1, 0.2, 0.8])], rows=2)
    assert found.scores.tolist() == [0.1, 0.8]
    assert measure("accuracy", np.array([0.0, 1.0]), found) == 1.0
    assert measure("roc_auc", np.array([0.0, 1.0]), found) == 1.0


def test_many_classes_are_compared_by_the_largest_probability():
    assert measure("accuracy", LABELS, predicted([THREE])) == 1.0
    assert measure("accuracy", np.array([0.0, 2.0, 2.0]), predicted([THREE])) == pytest.approx(2 / 3)


def test_a_label_output_names_the_classes():
    labels = output("label", "BYTES", (3,), ["setosa", "virginica", "setosa"])
    found = predicted([labels, THREE])
    assert measure("accuracy", np.array(["setosa", "virginica", "versicolor"]), found) == pytest.approx(2 / 3)
    assert "are not" in measure("accuracy", LABELS, found)
    numbers = predicted([output("label", "INT64", (3, 1), [0, 1, 1]), THREE])
    assert measure("accuracy", LABELS, numbers) == pytest.approx(2 / 3)
    alone = predicted([output("label", "INT64", (3,), [0, 1, 2])])
    assert measure("accuracy", LABELS, alone) == 1.0


@pytest.mark.parametrize(
    ("metric", "labels", "outputs", "why"),
    [
        ("roc_auc", LABELS, [THREE], "one score a row; output 'p' of (3, 3)"),
        ("f7", LABELS, [THREE], "f7 is none of the metrics"),
        ("accuracy", np.array(["a", "b", "c"]), [THREE], "without a label output"),
        ("accuracy", LABELS, [output("s", "BYTES", (3, 2), "abcdef")], "one score, class probabilities or a label"),
        ("roc_auc", np.array(["a", "b", "c"]), [output("p", "FP32", (3,), [0, 1, 1])], "labels are text"),
        ("roc_auc", LABELS, [output("p", "FP32", (2,), [0, 1])], "2 scores for 3 labels"),
        ("accuracy", LABELS, [output("label", "INT64", (2,), [0, 1])], "2 classes for 3 labels"),
    ],
)
def test_what_can_not_be_computed_says_why(metric, labels, outputs, why):
    assert why in measure(metric, labels, predicted(outputs))


def registered(*metrics):
    policy = Policy(model="m")
    policy.validation.metrics.extend(MetricThreshold(name=name) for name in metrics)
    return ModelRegistered(model="m", policy=policy)


def test_each_metric_is_measured_or_told():
    rows = pa.table({"label": [0, 1, 2]})
    found = measurements(registered("accuracy", "roc_auc"), rows, predicted([THREE]))
    assert found.values == {("accuracy", ""): 1.0}
    assert found.missing.keys() == {"roc_auc"}


@pytest.mark.parametrize(
    "column", [["a", "b"], pa.array(["a", "b"]).dictionary_encode(), [True, False], [1, 0], [0.0, 1.0]]
)
def test_labels_are_numbers_or_text(column):
    rows = pa.table({"label": column})
    text = not isinstance(rows["label"][0].as_py(), bool | int | float)
    data = rows["label"].to_pylist() if text else [float(one) for one in rows["label"].to_pylist()]
    answer = output("label", "BYTES" if text else "INT64", (2,), data)
    assert measurements(registered("accuracy"), rows, predicted([answer], rows=2)).values == {("accuracy", ""): 1.0}


def test_an_evaluation_that_tells_nothing_says_so():
    assert "no evaluation came" in evaluation_fault(None)
    assert "no column 'label', it has ['x']" in evaluation_fault(pa.table({"x": [1]}))
    assert "no rows" in evaluation_fault(pa.table({"label": []}))
    assert evaluation_fault(pa.table({"label": [1]})) == ""


@pytest.mark.parametrize(
    ("shapes", "rows"),
    [([[-1, 4]], 500), ([[1, 4]], 1), ([[8, 4], [8]], 8), ([[8], [1]], 1), ([[]], 1), ([[-1], [2, -1, 128]], 2)],
)
def test_rows_are_asked_as_many_at_once_as_the_model_takes(shapes, rows):
    made = Signature(inputs=[Tensor(name=str(index), shape=shape) for index, shape in enumerate(shapes)])
    assert rows_at_once(made, 500) == rows


def test_the_last_rows_are_filled_up_where_the_batch_is_fixed():
    fixed = Signature(inputs=[Tensor(name="x", datatype="FP32", shape=[4])])
    assert filled_up(pa.table({"x": [1.0, 2.0]}), 4, fixed)["x"].to_pylist() == [1, 2, 2, 2]
    free = Signature(inputs=[Tensor(name="x", datatype="FP32", shape=[-1])])
    assert filled_up(pa.table({"x": [1.0, 2.0]}), 500, free).num_rows == 2


@pytest.mark.parametrize(
    ("shape", "values", "sent"),
    [
        ([-1, -1], [[1.0, 2.0, 3.0]], [1, 3]),
        ([-1, -1, 2], [[1.0, 2.0, 3.0, 4.0]], [1, 2, 2]),
        ([-1, -1, -1], [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]], [1, 2, 3]),
        ([-1], [1.0], [1]),
        ([], [1.0], []),
        ([1, 2], [[1.0, 2.0]], [1, 2]),
    ],
)
def test_free_dimensions_are_read_off_the_rows(shape, values, sent):
    import json

    made = Signature(inputs=[Tensor(name="x", datatype="FP32", shape=shape)])
    request = request_for(made, pa.table({"x": values}), 0, 1)
    assert json.loads(request.body)["inputs"][0]["shape"] == sent


def test_fp16_goes_by_the_binary_extension():
    made = Signature(inputs=[Tensor(name="x", datatype="FP16", shape=[-1, 2])])
    request = request_for(made, pa.table({"x": [[0.5, 2.0]]}), 0, 1)
    assert request.body.endswith(np.array([0.5, 2.0], "<f2").tobytes())
    assert "Inference-Header-Content-Length" in request.headers
