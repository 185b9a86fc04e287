from __future__ import annotations

import json

import numpy as np

from tidegate.stack.demo.data import EVALUATION_MONTHS, FLOAT_INPUTS, INPUTS, LIVE_MONTHS, TRAIN_MONTHS, Flights
from tidegate.stack.demo.traffic import request_bodies


def test_every_column_is_whole(flights: Flights) -> None:
    assert tuple(flights.inputs) == INPUTS
    for name, column in flights.inputs.items():
        assert len(column) == len(flights)
        assert column.dtype == (np.float32 if name in FLOAT_INPUTS else np.int64)
        assert np.isfinite(column).all()
    assert set(np.unique(flights.late)) == {0, 1}
    assert len(np.unique(flights.flight_id)) == len(flights)


def test_some_aircraft_are_unknown_and_have_the_code_after_the_last(flights: Flights) -> None:
    aircraft = flights.inputs["aircraft"]
    assert aircraft.max() == flights.unknown_code == len(flights.aircraft_names)
    assert 0.1 < (aircraft == flights.unknown_code).mean() < 0.2
    assert flights.cleaned().inputs["aircraft"].max() < flights.unknown_code


def test_training_evaluation_and_live_flights_never_meet(flights: Flights) -> None:
    parts = [set(flights.in_months(months).flight_id) for months in (TRAIN_MONTHS, EVALUATION_MONTHS, LIVE_MONTHS)]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not parts[1] & parts[2]
    assert not parts[0] & parts[2]


def test_samples_are_the_same_for_the_same_seed(flights: Flights) -> None:
    one, other = flights.sample(100, seed=1), flights.sample(100, seed=1)
    assert (one.flight_id == other.flight_id).all()
    assert (flights.sample(100, seed=2).flight_id != one.flight_id).any()
    assert (np.diff(flights.sample(100).take(np.arange(100)).flight_id) != 0).all()


def test_requests_follow_the_open_inference_protocol(flights: Flights) -> None:
    (body,) = request_bodies(flights.take(np.array([0])))
    inputs = json.loads(body)["inputs"]
    assert [each["name"] for each in inputs] == list(INPUTS)
    assert {tuple(each["shape"]) for each in inputs} == {(1, 1)}
    kinds = {each["name"]: each["datatype"] for each in inputs}
    assert (kinds["distance"], kinds["aircraft"]) == ("FP32", "INT64")
    assert all(type(each["data"][0]) is (float if each["datatype"] == "FP32" else int) for each in inputs)
