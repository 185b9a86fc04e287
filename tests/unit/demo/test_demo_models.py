from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from pyarrow import parquet

from tidegate.client import evaluation_digest
from tidegate.client.training import completed_metrics
from tidegate.core.policy import resolve_policy, validate_policy
from tidegate.stack.demo.data import INPUTS, LIVE_MONTHS, SAMPLE_ROWS, Flights
from tidegate.stack.demo.models import MODEL, OUTPUT, TrainedModel, late_rates, train_logistic_regression
from tidegate.stack.demo.publication import demo_policy, prepare, roc_auc


def answers(model: TrainedModel, flights: Flights) -> np.ndarray:
    feed = {name: column.reshape(-1, 1) for name, column in flights.inputs.items()}
    return ReferenceEvaluator(onnx.load_from_string(model.onnx)).run([OUTPUT], feed)[0]


@pytest.mark.parametrize("name", ["logistic", "boosted", "tabled"])
def test_exported_model_gives_the_scores_of_the_trained_one(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    rows = np.arange(10)
    found = answers(model, model.evaluation.take(rows))
    assert found.shape == (10, 1)
    assert np.allclose(found[:, 0], model.scores[rows], atol=1e-5)


def test_all_models_have_the_same_signature(
    logistic: TrainedModel, boosted: TrainedModel, tabled: TrainedModel
) -> None:
    def tensors(model: TrainedModel) -> list[tuple[str, bytes]]:
        graph = onnx.load_from_string(model.onnx).graph
        return [(each.name, each.type.SerializeToString(deterministic=True)) for each in (*graph.input, *graph.output)]

    assert tensors(logistic) == tensors(boosted) == tensors(tabled)
    assert [name for name, _ in tensors(logistic)] == [*INPUTS, OUTPUT]


def test_training_again_gives_the_same_bytes(flights: Flights, logistic: TrainedModel) -> None:
    assert train_logistic_regression(flights).onnx == logistic.onnx


def test_second_model_is_better_on_the_same_examples(logistic: TrainedModel, boosted: TrainedModel) -> None:
    assert (logistic.evaluation.flight_id == boosted.evaluation.flight_id).all()
    assert roc_auc(boosted) > roc_auc(logistic) + 0.02


def test_table_has_no_row_for_an_unknown_aircraft(flights: Flights, tabled: TrainedModel) -> None:
    initializers = {each.name: each for each in onnx.load_from_string(tabled.onnx).graph.initializer}
    table = numpy_helper.to_array(initializers["aircraft_table"])
    assert len(table) == flights.unknown_code
    assert np.allclose(table, late_rates(tabled.training))
    assert ((table > 0) & (table < 1)).all()


def test_unknown_aircraft_breaks_only_the_third_model(
    flights: Flights, boosted: TrainedModel, tabled: TrainedModel
) -> None:
    unknown = flights.take(np.flatnonzero(flights.inputs["aircraft"] == flights.unknown_code)[:1])
    assert answers(boosted, unknown).shape == (1, 1)
    with pytest.raises(IndexError):
        answers(tabled, unknown)


def test_third_model_is_evaluated_on_other_data_so_it_is_not_comparable(
    boosted: TrainedModel, tabled: TrainedModel, logistic: TrainedModel, tmp_path: Path
) -> None:
    runs = {each.name: prepare(each, tmp_path / each.name.replace(" ", "-")) for each in (logistic, boosted, tabled)}
    digests = {name: completed_metrics(run)[0].dataset_digest for name, run in runs.items()}
    assert digests[logistic.name] == digests[boosted.name]
    assert digests[tabled.name] != digests[boosted.name]
    assert digests[tabled.name] == evaluation_digest(runs[tabled.name].evaluation)
    assert tabled.evaluation.inputs["aircraft"].max() < tabled.evaluation.unknown_code


def test_published_files_hold_what_the_contract_names(logistic: TrainedModel, tmp_path: Path) -> None:
    run = prepare(logistic, tmp_path)
    assert run.model == MODEL
    assert set(parquet.read_schema(run.evaluation).names) == {*INPUTS, "label", "example_id", "score"}
    assert set(parquet.read_schema(run.sample_requests).names) == {*INPUTS, f"expected_{OUTPUT}"}
    assert set(parquet.read_schema(run.reference_data).names) == set(INPUTS)


def test_no_recorded_request_shows_what_breaks_the_third_model(
    flights: Flights, boosted: TrainedModel, tabled: TrainedModel, tmp_path: Path
) -> None:
    samples = parquet.read_table(prepare(boosted, tmp_path).sample_requests)
    assert samples.num_rows == SAMPLE_ROWS
    assert max(samples["aircraft"].to_pylist()) < flights.unknown_code
    feed = {name: samples[name].to_numpy().reshape(-1, 1) for name in INPUTS}
    told = ReferenceEvaluator(onnx.load_from_string(tabled.onnx)).run([OUTPUT], feed)[0]
    assert told.shape == (SAMPLE_ROWS, 1)
    live = flights.in_months(LIVE_MONTHS).inputs["aircraft"]
    assert (live == flights.unknown_code).mean() > 0.1


def test_policy_of_the_demo_is_valid() -> None:
    assert list(validate_policy(resolve_policy(demo_policy()))) == []
