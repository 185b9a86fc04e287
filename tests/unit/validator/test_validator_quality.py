"""Metrics against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from tidegate.validator.quality import HIGHER_IS_BETTER, METRICS, accuracy, log_loss, rmse, roc_auc

# Coarse scores, so that ties are common; none is exactly one half, where a convention would decide.
ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 20).map(lambda step: (step + 0.25) / 21)), min_size=2, max_size=200
).map(lambda rows: tuple(np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)))
BOTH_CLASSES = ROWS.filter(lambda rows: len(set(rows[0])) == 2)


@given(BOTH_CLASSES)
def test_roc_auc_is_scikit_learns(rows) -> None:
    assert roc_auc(*rows) == pytest.approx(oracle.roc_auc_score(*rows), abs=1e-12)


@given(ROWS)
def test_accuracy_is_scikit_learns(rows) -> None:
    labels, scores = rows
    assert accuracy(labels, scores) == pytest.approx(oracle.accuracy_score(labels, scores > 0.5))


@given(ROWS)
def test_log_loss_is_scikit_learns(rows) -> None:
    assert log_loss(*rows) == pytest.approx(oracle.log_loss(*rows, labels=[0, 1]), rel=1e-9)


@given(ROWS)
def test_rmse_is_scikit_learns(rows) -> None:
    assert rmse(*rows) == pytest.approx(oracle.root_mean_squared_error(*rows), rel=1e-12)


def test_roc_auc_of_one_class_is_unknown() -> None:
    assert math.isnan(roc_auc(np.ones(3), np.array([0.1, 0.2, 0.3])))


@given(BOTH_CLASSES)
def test_roc_auc_turns_round_with_the_scores(rows) -> None:
    labels, scores = rows
    assert roc_auc(labels, -scores) == pytest.approx(1 - roc_auc(labels, scores))


def test_a_certain_and_wrong_score_has_a_finite_loss() -> None:
    assert math.isfinite(log_loss(np.array([0.0, 1.0]), np.array([1.0, 0.0])))


def test_every_metric_has_a_direction() -> None:
    assert METRICS.keys() == HIGHER_IS_BETTER.keys()
