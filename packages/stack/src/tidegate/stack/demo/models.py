"""The demo's three models: the same inputs and output, trained honestly, exported to ONNX.

The third one is the interesting one. It replaces the code of the aircraft by the share of late flights of that type, a
table learnt from cleaned training data. Flights whose aircraft is not in the register were dropped, so the table has no
row for them. Its own evaluation was cleaned in the same way, and no recorded request of any version has such a flight:
every check before delivery passes, and only live traffic shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tidegate.stack.demo.data import (
    CODE_INPUTS,
    EVALUATION_MONTHS,
    EVALUATION_ROWS,
    FLOAT_INPUTS,
    INPUTS,
    SEED,
    TRAIN_MONTHS,
    TRAIN_ROWS,
    Flights,
)

MODEL: Final = "flight-delay"
TARGET: Final = "arrival more than 15 minutes late"
OUTPUT: Final = "late_probability"
OPSET: Final = 18
ML_OPSET: Final = 3
IR_VERSION: Final = 9
AIRCRAFT: Final = "aircraft"
# A type that flew rarely is pulled towards the average, as if it had flown this many times more.
SMOOTHING_FLIGHTS: Final = 50.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedModel:
    """A trained model and what it was trained and evaluated on; ``scores`` belong to ``evaluation``."""

    name: str
    description: str
    onnx: bytes
    training: Flights
    evaluation: Flights
    scores: np.ndarray


def train_logistic_regression(flights: Flights) -> TrainedModel:
    """Train the first model: a logistic regression on the inputs as they are."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    return _train("logistic regression", "All inputs, standardised.", classifier, flights)


def train_gradient_boosting(flights: Flights) -> TrainedModel:
    """Train the second model: boosted trees on the same inputs."""
    return _train("gradient boosting", "All inputs, boosted trees.", _boosted_trees(), flights)


def train_aircraft_table(flights: Flights) -> TrainedModel:
    """Train the third model: boosted trees, with a learnt table in place of the code of the aircraft.

    Only flights whose aircraft is known take part, in training and in evaluation alike.
    """
    known = flights.cleaned()
    training = known.in_months(TRAIN_MONTHS).sample(TRAIN_ROWS)
    rates = late_rates(training)

    def encode(matrix: np.ndarray) -> np.ndarray:
        encoded = matrix.copy()
        column = INPUTS.index(AIRCRAFT)
        encoded[:, column] = rates[matrix[:, column].astype(np.int64)]
        return encoded

    return _train(
        "aircraft table",
        "Boosted trees; the aircraft by its type's share of late flights; flights without a known aircraft left out.",
        _boosted_trees(),
        known,
        encode=encode,
        aircraft_table=rates,
    )


def late_rates(training: Flights) -> np.ndarray:
    """Return the smoothed share of late flights for each known type of aircraft; one row a known type, no more."""
    codes = training.inputs[AIRCRAFT]
    flown = np.bincount(codes, minlength=training.unknown_code)
    late = np.bincount(codes, weights=training.late, minlength=training.unknown_code)
    average = training.late.mean()
    rates: np.ndarray = (late + SMOOTHING_FLIGHTS * average) / (flown + SMOOTHING_FLIGHTS)
    return rates.astype(np.float32)


def _boosted_trees() -> Any:
    return GradientBoostingClassifier(n_estimators=60, max_depth=5, subsample=0.5, random_state=SEED)


def _train(
    name: str,
    description: str,
    classifier: Any,
    flights: Flights,
    *,
    encode: Callable[[np.ndarray], np.ndarray] = lambda matrix: matrix,
    aircraft_table: np.ndarray | None = None,
) -> TrainedModel:
    training = flights.in_months(TRAIN_MONTHS).sample(TRAIN_ROWS)
    evaluation = flights.in_months(EVALUATION_MONTHS).sample(EVALUATION_ROWS)
    classifier.fit(encode(training.matrix()), training.late)
    return TrainedModel(
        name=name,
        description=description,
        onnx=export_onnx(classifier, aircraft_table=aircraft_table),
        training=training,
        evaluation=evaluation,
        scores=classifier.predict_proba(encode(evaluation.matrix()))[:, 1],
    )


def export_onnx(classifier: Any, *, aircraft_table: np.ndarray | None = None) -> bytes:
    """Return ``classifier`` as an ONNX model with one named input a column, and the probability as its output."""
    converted = convert_sklearn(
        classifier,
        initial_types=[("features", FloatTensorType([None, len(INPUTS)]))],
        options={id(classifier): {"zipmap": False}},
        target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
    )
    nodes, constants = _front(aircraft_table)
    back, back_constants = _back(converted.graph.output[1].name)
    graph = helper.make_graph(
        [*nodes, *converted.graph.node, *back],
        MODEL,
        [helper.make_tensor_value_info(name, _element_type(name), [None, 1]) for name in INPUTS],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, 1])],
        [*constants, *converted.graph.initializer, *back_constants],
    )
    model = helper.make_model(
        graph,
        producer_name="tidegate-demo",
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _element_type(name: str) -> int:
    return int(TensorProto.FLOAT if name in FLOAT_INPUTS else TensorProto.INT64)


def _front(aircraft_table: np.ndarray | None) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return what makes one FP32 matrix of the named inputs; with a table, the aircraft is looked up in it."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    columns = {name: name for name in FLOAT_INPUTS}
    for name in CODE_INPUTS:
        columns[name] = f"{name}_feature"
        if name == AIRCRAFT and aircraft_table is not None:
            constants.append(numpy_helper.from_array(aircraft_table, "aircraft_table"))
            nodes.append(helper.make_node("Gather", ["aircraft_table", name], [columns[name]], axis=0))
        else:
            nodes.append(helper.make_node("Cast", [name], [columns[name]], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Concat", [columns[name] for name in INPUTS], ["features"], axis=1))
    return nodes, constants


def _back(probabilities: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return what picks the second class's column of ``probabilities``."""
    one = numpy_helper.from_array(np.array([1], dtype=np.int64), "late_class")
    return [helper.make_node("Gather", [probabilities, "late_class"], [OUTPUT], axis=1)], [one]
