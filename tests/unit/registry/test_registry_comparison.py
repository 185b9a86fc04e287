"""The paired tests against oracles: brute sums, the bootstrap, and A/A pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.registry.numbering.comparison import (
    PairedNumbers,
    delong,
    holm_rejected,
    mid_p,
    one_sided_p,
    paired_numbers,
    too_few,
)

AA_PAIRS = 400
ALPHA = 0.05


def brute_mid_p(wins: int, losses: int) -> float:
    count = wins + losses
    mass = [math.comb(count, k) / 2**count for k in range(count + 1)]
    return sum(mass[wins + 1 :]) + mass[wins] / 2


@given(st.integers(0, 120), st.integers(0, 120))
def test_mid_p_equals_the_brute_binomial_sum(wins, losses):
    assert mid_p(wins, losses) == pytest.approx(brute_mid_p(wins, losses), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 5), (100_000, 100_000)])
def test_mid_p_of_a_draw_is_one_half(wins, losses):
    assert mid_p(wins, losses) == pytest.approx(0.5, rel=1e-9)


def test_mid_p_of_many_examples_agrees_with_the_normal_law():
    assert mid_p(50_500, 49_500) == pytest.approx(0.5 * math.erfc((1000 / math.sqrt(100_000)) / math.sqrt(2)), rel=1e-2)


def scored(seed: int, n: int, *, lift: float = 0.0, base_lift: float = 0.0):
    draw = np.random.default_rng(seed)
    labels = draw.random(n) < 0.3
    common = draw.normal(size=n)
    candidate = (1.0 + lift) * labels + common + draw.normal(size=n)
    baseline = (1.0 + base_lift) * labels + common + draw.normal(size=n)
    return labels, candidate, baseline


def brute_auc(labels, scores):
    wins = scores[labels][:, None] - scores[~labels][None, :]
    return ((wins > 0).sum() + 0.5 * (wins == 0).sum()) / wins.size


@given(st.integers(0, 10_000))
def test_the_area_equals_the_share_of_ordered_pairs_ties_included(seed):
    labels, candidate, baseline = scored(seed, 60)
    candidate, baseline = candidate.round(1), baseline.round(1)
    if not 0 < labels.sum() < len(labels):
        return
    first, second, _ = delong(labels, candidate, baseline)
    assert first == pytest.approx(brute_auc(labels, candidate))
    assert second == pytest.approx(brute_auc(labels, baseline))


def test_the_variance_of_delong_agrees_with_the_bootstrap():
    labels, candidate, baseline = scored(7, 600)
    _, _, variance = delong(labels, candidate, baseline)
    draw = np.random.default_rng(8)
    differences = []
    for _ in range(1500):
        rows = draw.integers(0, len(labels), len(labels))
        first, second, _ = delong(labels[rows], candidate[rows], baseline[rows])
        differences.append(first - second)
    assert math.sqrt(variance) == pytest.approx(np.std(differences), rel=0.1)


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy"])
def test_equal_models_are_called_better_at_most_alpha_of_the_time(metric):
    better = 0
    for seed in range(AA_PAIRS):
        labels, candidate, baseline = scored(seed, 400)
        shift = 0.0 if metric == "roc_auc" else -0.2
        numbers = paired_numbers(
            metric, labels=labels.astype(int), candidate=candidate + shift, baseline=baseline + shift
        )
        assert not too_few(numbers)
        better += one_sided_p(numbers, higher_is_better=True)[0] < ALPHA
    # Three standard deviations of a binomial above alpha.
    assert better <= AA_PAIRS * ALPHA + 3 * math.sqrt(AA_PAIRS * ALPHA * (1 - ALPHA))


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy"])
def test_a_clearly_better_model_is_found(metric):
    labels, candidate, baseline = scored(3, 4000, lift=1.0)
    numbers = paired_numbers(metric, labels=labels.astype(int), candidate=candidate, baseline=baseline)
    p_better, p_worse = one_sided_p(numbers, higher_is_better=True)
    assert p_better < 1e-3
    assert p_worse == pytest.approx(1 - p_better)


def test_a_metric_where_lower_is_better_turns_the_answer_around():
    labels, candidate, baseline = scored(3, 4000, lift=1.0)
    numbers = paired_numbers("roc_auc", labels=labels.astype(int), candidate=candidate, baseline=baseline)
    assert one_sided_p(numbers, higher_is_better=False) == one_sided_p(numbers, higher_is_better=True)[::-1]


def test_identical_scores_are_a_tie():
    labels, candidate, _ = scored(3, 500)
    numbers = paired_numbers("roc_auc", labels=labels.astype(int), candidate=candidate, baseline=candidate)
    assert one_sided_p(numbers, higher_is_better=True) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ({"metric": "roc_auc", "example_count": 199, "positive_count": 50}, "199 examples"),
        ({"metric": "roc_auc", "example_count": 300, "positive_count": 0}, "0 positives"),
        ({"metric": "accuracy", "example_count": 300, "positive_count": 3, "candidate_only_right": 9}, "9 examples"),
    ],
)
def test_too_few_examples_are_named(numbers, why):
    assert why in too_few(PairedNumbers(candidate_value=0.5, baseline_value=0.5, **numbers))


def test_holm_steps_down():
    assert holm_rejected([0.01, 0.04, 0.03], 0.05) == [0]
    assert holm_rejected([0.01, 0.02, 0.03], 0.05) == [0, 1, 2]
    assert holm_rejected([], 0.05) == []


def test_labels_other_than_two_classes_have_no_area():
    with pytest.raises(ValueError, match="labels 0 and 1"):
        paired_numbers("roc_auc", labels=np.array([0, 1, 2]), candidate=np.zeros(3), baseline=np.zeros(3))
