"""Metrics from labels and scores, numpy only; each is tested against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

PROBABILITY_SMALLEST: Final = 1e-15
DECISION_THRESHOLD: Final = 0.5


def roc_auc(labels: Array, scores: Array) -> float:
    """Return the area under the ROC curve by ranks, ties counted half (Mann-Whitney); NaN if a class is missing."""
    positive = labels > DECISION_THRESHOLD
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def accuracy(labels: Array, scores: Array) -> float:
    """Return the share of rows whose score and label are on the same side of one half."""
    return float(np.mean((scores > DECISION_THRESHOLD) == (labels > DECISION_THRESHOLD)))


def log_loss(labels: Array, scores: Array) -> float:
    """Return the mean negative log-likelihood of the labels."""
    clipped = np.clip(scores, PROBABILITY_SMALLEST, 1 - PROBABILITY_SMALLEST)
    return float(-np.mean(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped)))


def rmse(labels: Array, scores: Array) -> float:
    """Return the root of the mean squared error."""
    return float(np.sqrt(np.mean((labels - scores) ** 2)))


METRICS: Final[dict[str, Callable[[Array, Array], float]]] = {
    "roc_auc": roc_auc,
    "accuracy": accuracy,
    "log_loss": log_loss,
    "rmse": rmse,
}
HIGHER_IS_BETTER: Final = {"roc_auc": True, "accuracy": True, "log_loss": False, "rmse": False}
