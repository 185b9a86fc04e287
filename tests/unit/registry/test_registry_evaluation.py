"""Pairing two evaluations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.registry.intake.evaluation_file import read_evaluation
from tidegate.registry.intake.rejection import Rejected
from tidegate.registry.numbering.evaluation import compare

N = 400


def columns(seed=0, *, noise=1.0):
    draw = np.random.default_rng(1)
    labels = (draw.random(N) < 0.4).astype(np.int64)
    scores = labels + np.random.default_rng(seed).normal(size=N) * noise
    return {"label": labels, "score": scores, "carrier": np.where(draw.random(N) < 0.5, "AA", "UA")}


@pytest.fixture
def read(tmp_path):
    def read(table, name="a", slices=("carrier",)):
        path = tmp_path / name
        pq.write_table(pa.table(table), path)
        return read_evaluation(path, digest=f"sha256:{name}", slice_columns=slices)

    return read


def test_rows_pair_by_order_if_the_labels_are_equal(read):
    found = compare(read(columns(2, noise=0.5), "a"), read(columns(3), "b"), metric="roc_auc")
    assert found.unknown_because == ""
    assert found.overall.example_count == N
    assert found.overall.candidate_value > found.overall.baseline_value
    assert [numbers.slice_name for numbers in found.slices] == ["carrier=AA", "carrier=UA"]
    assert (found.candidate_evaluation_digest, found.baseline_evaluation_digest) == ("sha256:a", "sha256:b")


@pytest.mark.parametrize("ids", [np.arange(N), np.array([f"id-{number}" for number in range(N)])])
def test_rows_pair_by_example_id_whatever_their_order(read, ids):
    shuffled = np.random.default_rng(5).permutation(N)
    straight = columns() | {"example_id": ids}
    mixed = {name: values[shuffled] for name, values in straight.items()}
    found = compare(read(straight, "a"), read(mixed, "b"), metric="roc_auc")
    assert found.overall.variance == 0.0
    assert found.overall.difference == 0.0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"label": 1 - columns()["label"]}, "other labels"),
        ({"score": np.full(N, np.nan)}, "not finite"),
        ({"score": np.array(["x"] * N)}, "numbers"),
    ],
)
def test_what_does_not_pair_is_unknown(read, change, why):
    found = compare(read(columns() | change, "a"), read(columns(), "b"), metric="roc_auc")
    assert found.overall is None
    assert why in found.unknown_because


def test_other_ids_and_other_lengths_are_unknown(read):
    first = columns() | {"example_id": np.arange(N)}
    other = columns() | {"example_id": np.arange(N) + 1}
    assert "example_ids" in compare(read(first, "a"), read(other, "b"), metric="roc_auc").unknown_because
    short = {name: values[:-1] for name, values in columns().items()}
    assert "399" in compare(read(short, "a"), read(columns(), "b"), metric="roc_auc").unknown_because


def test_scores_are_optional(read):
    table = columns()
    del table["score"]
    assert "no column score" in compare(read(table, "a"), read(columns(), "b"), metric="roc_auc").unknown_because


def test_classes_are_compared_as_answers(read):
    labels = np.array(["cat", "dog", "fox"] * 100)
    right = {"label": labels, "score": labels}
    wrong = {"label": labels, "score": np.array(["cat"] * 300)}
    found = compare(read(right, "a", ()), read(wrong, "b", ()), metric="accuracy")
    assert (found.overall.candidate_only_right, found.overall.baseline_only_right) == (200, 0)


def test_unreadable_files_are_refused(tmp_path, read):
    path = tmp_path / "x"
    path.write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(Rejected) as caught:
        read_evaluation(path, digest="", slice_columns=())
    assert caught.value.code == "EVALUATION_UNREADABLE"
    with pytest.raises(Rejected, match="label"):
        read({"score": np.zeros(3)})
