"""Is a model better than another on the same examples? Paired tests, and the numbers they need.

Sources: DeLong, DeLong and Clarke-Pearson 1988 (variance of correlated areas under the ROC curve), computed by
Sun and Xu 2014, "Fast Implementation of DeLong's Algorithm"; McNemar's exact test with the mid-p of Lancaster 1961
(Fagerland, Lydersen and Laake 2013); Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

EXAMPLES_MIN: Final = 200
DISCORDANT_MIN: Final = 10
DECISION_THRESHOLD: Final = 0.5
_NEGLIGIBLE: Final = 1e-17

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedNumbers:
    """What a paired test is decided from; ``slice_name`` is "column=value", empty = all examples.

    ``variance`` is that of the difference of the areas (roc_auc); the two counts are the examples that only one of
    the models gets right (accuracy).
    """

    metric: str
    example_count: int
    positive_count: int
    candidate_value: float
    baseline_value: float
    variance: float = 0.0
    candidate_only_right: int = 0
    baseline_only_right: int = 0
    slice_name: str = ""

    @property
    def difference(self) -> float:
        """Return candidate minus baseline."""
        return self.candidate_value - self.baseline_value


def paired_numbers(
    metric: str,
    *,
    labels: NDArray[Any],
    candidate: NDArray[Any],
    baseline: NDArray[Any],
    slice_name: str = "",
) -> PairedNumbers:
    """Return the numbers of ``metric`` (roc_auc or accuracy) for two models scored on the same examples.

    Raises:
        ValueError: The metric is another one, or roc_auc gets labels other than 0 and 1.

    """
    if metric == "roc_auc":
        return _roc_auc_numbers(labels, candidate, baseline, slice_name)
    if metric == "accuracy":
        return _accuracy_numbers(labels, candidate, baseline, slice_name)
    raise ValueError(f"metric is {metric!r}, expected roc_auc or accuracy")


def is_binary(labels: NDArray[Any]) -> bool:
    """Say whether all labels are 0 or 1."""
    return labels.dtype.kind in "biuf" and bool(np.isin(labels, (0, 1)).all())


def _roc_auc_numbers(
    labels: NDArray[Any], candidate: NDArray[Any], baseline: NDArray[Any], slice_name: str
) -> PairedNumbers:
    if not is_binary(labels):
        raise ValueError("roc_auc needs labels 0 and 1")
    positive = labels.astype(bool)
    positive_count = int(positive.sum())
    # With one class only there is no area; too_few says so.
    candidate_value, baseline_value, variance = 0.0, 0.0, 0.0
    if 0 < positive_count < len(labels):
        candidate_value, baseline_value, variance = delong(
            positive, candidate.astype(np.float64), baseline.astype(np.float64)
        )
    return PairedNumbers(
        metric="roc_auc",
        example_count=len(labels),
        positive_count=positive_count,
        candidate_value=candidate_value,
        baseline_value=baseline_value,
        variance=variance,
        slice_name=slice_name,
    )


def delong(positive: Bools, candidate: Floats, baseline: Floats) -> tuple[float, float, float]:
    """Return both areas under the ROC curve and the variance of their difference; needs both classes."""
    candidate_area, candidate_pos, candidate_neg = _placements(candidate[positive], candidate[~positive])
    baseline_area, baseline_pos, baseline_neg = _placements(baseline[positive], baseline[~positive])
    variance = _mean_variance(candidate_pos - baseline_pos) + _mean_variance(candidate_neg - baseline_neg)
    return candidate_area, baseline_area, variance


def _placements(positives: Floats, negatives: Floats) -> tuple[float, Floats, Floats]:
    """Return the area and each example's share of the other class that it beats (ties count half)."""
    m, n = len(positives), len(negatives)
    together = _midranks(np.concatenate([positives, negatives]))
    of_positives = (together[:m] - _midranks(positives)) / n
    of_negatives = 1.0 - (together[m:] - _midranks(negatives)) / m
    return float(of_positives.mean()), of_positives, of_negatives


def _midranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    midranks: Floats = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    return midranks


def _mean_variance(values: Floats) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def _accuracy_numbers(
    labels: NDArray[Any], candidate: NDArray[Any], baseline: NDArray[Any], slice_name: str
) -> PairedNumbers:
    candidate_right = _right(labels, candidate)
    baseline_right = _right(labels, baseline)
    return PairedNumbers(
        metric="accuracy",
        example_count=len(labels),
        positive_count=int(labels.astype(bool).sum()) if is_binary(labels) else 0,
        candidate_value=float(candidate_right.mean()) if len(labels) else 0.0,
        baseline_value=float(baseline_right.mean()) if len(labels) else 0.0,
        candidate_only_right=int((candidate_right & ~baseline_right).sum()),
        baseline_only_right=int((baseline_right & ~candidate_right).sum()),
        slice_name=slice_name,
    )


def _right(labels: NDArray[Any], scores: NDArray[Any]) -> Bools:
    """Say which answers are right: a score of a 0/1 label is a probability, any other is the answer itself."""
    if is_binary(labels) and scores.dtype.kind == "f":
        return np.asarray((scores >= DECISION_THRESHOLD) == labels.astype(bool))
    return np.asarray(labels == scores, dtype=np.bool_)


def too_few(numbers: PairedNumbers) -> str:
    """Return why the test can't be trusted, for people; empty = it can."""
    if numbers.example_count < EXAMPLES_MIN:
        return f"{numbers.example_count} examples, at least {EXAMPLES_MIN} are needed"
    if numbers.metric == "roc_auc" and not 1 < numbers.positive_count < numbers.example_count - 1:
        return f"{numbers.positive_count} positives of {numbers.example_count} examples, both classes are needed"
    discordant = numbers.candidate_only_right + numbers.baseline_only_right
    if numbers.metric == "accuracy" and discordant < DISCORDANT_MIN:
        return f"{discordant} examples that only one model gets right, at least {DISCORDANT_MIN} are needed"
    return ""


def one_sided_p(numbers: PairedNumbers, *, higher_is_better: bool) -> tuple[float, float]:
    """Return the p-values of "the candidate is better" and of "it is worse"."""
    if numbers.metric == "accuracy":
        more = mid_p(numbers.candidate_only_right, numbers.baseline_only_right)
        fewer = mid_p(numbers.baseline_only_right, numbers.candidate_only_right)
    else:
        z = z_value(numbers)
        more, fewer = 0.5 * math.erfc(z / math.sqrt(2)), 0.5 * math.erfc(-z / math.sqrt(2))
    return (more, fewer) if higher_is_better else (fewer, more)


def z_value(numbers: PairedNumbers) -> float:
    """Return DeLong's z; 0 where the models give the same order, so that nothing is known to differ."""
    if numbers.variance <= 0.0:
        return 0.0
    return numbers.difference / math.sqrt(numbers.variance)


def mid_p(wins: int, losses: int) -> float:
    """Return P(X > wins) + P(X = wins) / 2 for X binomial(wins + losses, 1/2)."""
    count = wins + losses
    if 2 * wins < count:
        # The other tail is the short one.
        return 1.0 - mid_p(losses, wins)
    log_mass = math.lgamma(count + 1) - math.lgamma(wins + 1) - math.lgamma(losses + 1) - count * math.log(2)
    mass = math.exp(log_mass)
    total, term = mass / 2, mass
    for k in range(wins, count):
        term *= (count - k) / (k + 1)
        total += term
        if term < total * _NEGLIGIBLE:
            break
    return min(total, 1.0)


def holm_rejected(p_values: Sequence[float], alpha: float) -> list[int]:
    """Return the indices that Holm's procedure rejects at family-wise level ``alpha``."""
    rejected: list[int] = []
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        if p_values[index] >= alpha / (len(p_values) - rank):
            break
        rejected.append(index)
    return sorted(rejected)
