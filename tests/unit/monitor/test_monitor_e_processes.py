"""The e-processes keep their promises: exactly on small blocks, and by seeded simulation over whole rollouts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from more import repeats
from numpy.typing import NDArray

from tidegate.monitor.judges import absolute, betting, latency, noninferiority, two_sample
from tidegate.monitor.judges.projection import project
from tidegate.monitor.judges.two_sample import Block, TwoSample
from tidegate.monitor.judges.wealth import Wealth, log_sum, play

Floats = NDArray[np.float64]
Increments = Callable[..., Floats]

ALPHA = 0.01


def binomial(n: int, p: float) -> Floats:
    """Return the probabilities of 0..n failures."""
    return np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


def expectation(
    increments: Increments, estimates: list[float], sizes: tuple[int, int], rates: tuple[float, float], margin: float
) -> Floats:
    """Return the exact expectation of each alternative's e-variable of one block."""
    (n_c, n_b), (p_c, p_b) = sizes, rates
    outcomes = np.array([[n_c, k_c, n_b, k_b] for k_c in range(n_c + 1) for k_b in range(n_b + 1)], dtype=np.float64)
    steps = increments(estimates=np.array([estimates] * len(outcomes)), counts=outcomes, margin=margin)
    weights = np.outer(binomial(n_c, p_c), binomial(n_b, p_b)).reshape(-1, 1)
    expected: Floats = np.sum(weights * np.exp(steps), axis=0)
    return expected


ESTIMATES = ([0.0, 0.0, 0.0, 0.0], [40.0, 200.0, 10.0, 1000.0], [0.0, 500.0, 0.0, 5000.0], [9.0, 10.0, 400.0, 500.0])
SIZES = ((1, 1), (2, 19), (19, 2), (12, 12))


@pytest.mark.parametrize("estimates", ESTIMATES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("margin", [0.0, 0.005, 0.1])
def test_no_rate_within_the_null_expects_evidence_against_it(
    estimates: list[float], sizes: tuple[int, int], margin: float
) -> None:
    for p_b in (0.0, 0.002, 0.03, 0.4, 0.85):
        for distance in (0.0, 0.001, 0.3):
            p_c = max(0.0, p_b + margin - distance)
            assert np.all(expectation(two_sample.increments, estimates, sizes, (p_c, p_b), margin) <= 1 + 1e-9)


@pytest.mark.parametrize("estimates", ESTIMATES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("margin", [0.005, 0.1])
def test_no_inferior_candidate_expects_evidence_for_promotion(
    estimates: list[float], sizes: tuple[int, int], margin: float
) -> None:
    for p_b in (0.0, 0.002, 0.03, 0.4, 0.85):
        for distance in (0.0, 0.001, 0.3):
            p_c = min(1.0, p_b + margin + distance)
            assert np.all(expectation(noninferiority.increments, estimates, sizes, (p_c, p_b), margin) <= 1 + 1e-9)


@pytest.mark.parametrize("bound", [0.01, 0.05, 0.5])
def test_no_rate_below_the_floor_expects_evidence_against_it(bound: float) -> None:
    failures = np.arange(31, dtype=np.float64).reshape(-1, 1)
    steps = absolute.increments(np.full((31, 1), 30.0), failures, bound=bound)
    for rate in (0.0, bound / 3, bound):
        assert np.all(np.sum(binomial(30, rate).reshape(-1, 1) * np.exp(steps), axis=0) <= 1 + 1e-9)


def test_projection_lies_on_the_boundary_and_is_the_nearest_point() -> None:
    q_c, q_b, n_c, n_b, margin = (np.array([value]) for value in (0.2, 0.01, 7.0, 60.0, 0.02))

    def distance(p_b: Floats) -> float:
        p_c = p_b + margin
        near_c = q_c * np.log(q_c / p_c) + (1 - q_c) * np.log((1 - q_c) / (1 - p_c))
        near_b = q_b * np.log(q_b / p_b) + (1 - q_b) * np.log((1 - q_b) / (1 - p_b))
        return float((n_c * near_c + n_b * near_b)[0])

    p_c, p_b = project(q_c, q_b, n_c, n_b, float(margin[0]))

    assert p_c - p_b == pytest.approx(margin)
    assert all(distance(p_b) <= distance(np.array([other])) for other in np.linspace(0.001, 0.97, 500))


def rate(value: float | Callable[[int], float], second: int) -> float:
    """Return a rate that may depend on time."""
    return value(second) if callable(value) else value


def crossings(
    increments: Increments,
    log_weights: Floats,
    *,
    margin: float,
    p_c: float | Callable[[int], float],
    p_b: float | Callable[[int], float],
    weight: float | Callable[[int], float],
    seconds: int,
    runs: int,
    alpha: float = ALPHA,
    seed: int = 20261124,
) -> Floats:
    """Return, for each simulated rollout at 100 requests/s, the candidate's requests when it crossed 1/alpha (nan = never)."""
    random = np.random.default_rng(seed)
    bets, cash = np.full((runs, len(log_weights)), -np.inf), np.zeros(runs)
    blocks, seen = np.zeros(runs), np.zeros((runs, 4))
    requests, crossed = np.zeros(runs), np.full(runs, np.nan)
    for second in range(seconds):
        total = random.poisson(100, runs)
        n_c = random.binomial(total, rate(weight, second))
        n_b = total - n_c
        k_c, k_b = random.binomial(n_c, rate(p_c, second)), random.binomial(n_b, rate(p_b, second))
        requests += n_c
        both = (n_c > 0) & (n_b > 0)
        counts = np.stack([n_c, k_c, n_b, k_b], axis=1).astype(np.float64)
        factors = increments(estimates=seen[both], counts=counts[both], margin=margin)
        if increments is two_sample.increments:
            bets[both], cash[both] = play(bets[both], cash[both], blocks[both], factors, log_weights)
        else:
            bets[both] = np.where(np.isneginf(bets[both]), log_weights, bets[both]) + factors
            cash[both] = -np.inf
        blocks += both
        seen += np.stack([k_c, n_c, k_b, n_b], axis=1)
        for trials in (1, 3):
            keep = np.minimum(1.0, two_sample.MEMORY_TRIALS / np.maximum(seen[:, trials], 1.0))
            seen[:, trials - 1 : trials + 1] *= keep[:, np.newaxis]
        log_e = log_sum(np.concatenate([bets, cash[:, np.newaxis]], axis=1))
        over = np.isnan(crossed) & (log_e >= math.log(1 / alpha))
        crossed[over] = requests[over]
        if not np.isnan(crossed).any():
            break
    return crossed


def allowed(runs: int, alpha: float = ALPHA) -> int:
    """Return the number of crossings that a judge at exactly alpha exceeds with probability below 1e-4."""
    tail, count = 1.0, -1
    while tail > 1e-4:
        count += 1
        tail -= math.comb(runs, count) * alpha**count * (1 - alpha) ** (runs - count)
    return count


def drifting(second: int) -> float:
    """Base rate from 0.2 % to 2 % within 400 s."""
    return float(0.002 * 10 ** min(1.0, second / 400))


def ramping(second: int) -> float:
    """Weights 1, 5, 10, 25, 50 %."""
    return (0.01, 0.05, 0.1, 0.25, 0.5)[min(4, second // 80)]


@pytest.mark.parametrize(
    ("margin", "p_c", "p_b", "weight"),
    [
        pytest.param(0.0, 0.005, 0.005, 0.1, id="equal, no margin"),
        pytest.param(0.0, drifting, drifting, ramping, id="base rate drifts while weights ramp"),
        pytest.param(0.005, drifting, drifting, ramping, id="the same with a margin"),
        pytest.param(
            0.005, lambda t: drifting(t) + 0.005, drifting, ramping, id="worse by exactly the tolerated margin"
        ),
    ],
)
def test_healthy_candidate_is_rolled_back_at_most_alpha_often(
    margin: float,
    p_c: float | Callable[[int], float],
    p_b: float | Callable[[int], float],
    weight: float | Callable[[int], float],
) -> None:
    runs = repeats(100, many=400)
    crossed = crossings(
        two_sample.increments,
        two_sample.LOG_WEIGHTS,
        margin=margin,
        p_c=p_c,
        p_b=p_b,
        weight=weight,
        seconds=500,
        runs=runs,
    )
    assert np.count_nonzero(~np.isnan(crossed)) <= allowed(runs)


def detection_bound(p_c: float, p_b: float, weight: float, margin: float) -> float:
    """Return log(1/alpha)/D in candidate requests; no test of power one needs fewer on average."""
    points = np.geomspace(1e-5, 0.5, 200_000)

    def divergence(q: float, p: Floats) -> Floats:
        return q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))

    least = float(np.min(weight * divergence(p_c, points + margin) + (1 - weight) * divergence(p_b, points)))
    return math.log(1 / ALPHA) / least * weight


@pytest.mark.parametrize("margin", [0.0, 0.005])
def test_real_regression_is_found_within_twice_the_bound(margin: float) -> None:
    crossed = crossings(
        two_sample.increments,
        two_sample.LOG_WEIGHTS,
        margin=margin,
        p_c=0.05,
        p_b=0.005,
        weight=0.1,
        seconds=400,
        runs=200,
    )
    assert not np.isnan(crossed).any()
    assert np.mean(crossed) <= 2 * detection_bound(0.05, 0.005, 0.1, margin)


def test_candidate_that_turns_bad_after_hours_is_found_soon() -> None:
    state = TwoSample()
    for _ in range(3_000):
        state = two_sample.update(state, Block(n_c=10, k_c=0, n_b=90, k_b=1), margin=0.005)
    blocks = 0
    while state.log_e_value() < math.log(400):
        state = two_sample.update(state, Block(n_c=10, k_c=2, n_b=90, k_b=1), margin=0.005)
        blocks += 1
    assert blocks <= 15


def test_moving_wealth_creates_none() -> None:
    wealth = Wealth()
    weights = np.log(np.array([0.25, 0.75]))
    for _ in range(1000):
        wealth = wealth.after(np.zeros(2), weights)
        assert wealth.log_total() == pytest.approx(0.0, abs=1e-9)
    losing = Wealth()
    for _ in range(1000):
        losing = losing.after(np.full(2, -1.0), weights)
    assert losing.log_total() > -5


def test_inferior_candidate_is_promoted_at_most_alpha_often() -> None:
    runs = repeats(100, many=300)
    crossed = crossings(
        noninferiority.increments,
        noninferiority.LOG_WEIGHTS,
        margin=0.005,
        p_c=0.01,
        p_b=0.005,
        weight=0.1,
        seconds=600,
        runs=runs,
    )
    assert np.count_nonzero(~np.isnan(crossed)) <= allowed(runs)


def test_equal_candidate_without_failures_needs_about_log_of_threshold_over_margin() -> None:
    crossed = crossings(
        noninferiority.increments,
        noninferiority.LOG_WEIGHTS,
        margin=0.005,
        p_c=0.0,
        p_b=0.0,
        weight=0.1,
        seconds=300,
        runs=20,
    )
    assert np.max(crossed) <= 1.25 * math.log(1 / ALPHA) / 0.005


def test_simpson_mixture_of_steps_does_not_breach() -> None:
    # At 1 % weight the base rate is 0.2 %, at 50 % weight it is 2 %; pooled, the candidate looks ten times worse.
    state = TwoSample()
    for _ in range(200):
        state = two_sample.update(state, Block(n_c=10, k_c=0, n_b=990, k_b=2), margin=0.0)
    for _ in range(200):
        state = two_sample.update(state, Block(n_c=500, k_c=10, n_b=500, k_b=10), margin=0.0)
    assert state.log_e_value() < math.log(1 / ALPHA)


def test_block_without_one_arm_changes_nothing() -> None:
    state = two_sample.update(TwoSample(), Block(n_c=10, k_c=3, n_b=200, k_b=1), margin=0.0)
    assert two_sample.update(state, Block(n_c=50, k_c=50, n_b=0, k_b=0), margin=0.0) is state
    assert two_sample.update(state, Block(n_c=0, k_c=0, n_b=50, k_b=50), margin=0.0) is state


def lognormal(random: np.random.Generator, median_ms: float, size: int) -> NDArray[np.uint64]:
    """Return latencies in microseconds."""
    return (1000 * median_ms * np.exp(0.5 * random.standard_normal(size))).astype(np.uint64)


def latency_run(
    random: np.random.Generator, *, candidate_factor: float, seconds: int, drift: float = 1.0
) -> latency.Latency:
    """Return the state after ``seconds`` at 20 candidate and 80 stable requests/s; ``drift`` slows both arms in time."""
    state = latency.Latency(levels=latency.watched_levels(0.99))
    for second in range(seconds):
        median_ms = 50.0 * drift ** (second / seconds)
        slow, fast = lognormal(random, median_ms * candidate_factor, 20), lognormal(random, median_ms, 80)
        blocks = tuple(
            None if threshold is None else latency.exceedances(threshold, slow, fast, ratio=1.2)
            for threshold in latency.thresholds_us(state)
        )
        state = latency.observe(latency.update(state, blocks), latency.to_histogram(fast))
    return state


@pytest.mark.parametrize("drift", [1.0, 5.0])
@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_candidate_within_the_ratio_is_not_slow_also_when_both_get_slower(factor: float, drift: float) -> None:
    random = np.random.default_rng(7)
    runs = repeats(20, many=60)
    values = [latency_run(random, candidate_factor=factor, seconds=60, drift=drift).log_e_value() for _ in range(runs)]
    assert sum(value >= math.log(1 / ALPHA) for value in values) <= allowed(runs)


def test_twice_as_slow_candidate_is_found() -> None:
    state = latency_run(np.random.default_rng(8), candidate_factor=2.0, seconds=60)
    assert state.log_e_value() >= math.log(1 / ALPHA)


def test_one_stall_is_one_piece_of_evidence_whatever_its_requests() -> None:
    state = latency_run(np.random.default_rng(9), candidate_factor=1.0, seconds=60)
    stall = Block(n_c=300, k_c=300, n_b=300, k_b=3)
    stalled = latency.update(state, (stall,) * len(state.levels))
    assert stalled.log_e_value() <= state.log_e_value() + math.log(2)


def test_stalls_that_hit_both_arms_alike_roll_nothing_back() -> None:
    random = np.random.default_rng(11)
    runs = repeats(20, many=60)
    crossed = 0
    for _ in range(runs):
        state = latency.Latency(levels=latency.watched_levels(0.99))
        highest = 0.0
        for _ in range(240):
            slow, fast = lognormal(random, 10.0, 25), lognormal(random, 10.0, 25)
            for one in (slow, fast):
                if random.random() < 0.05:
                    one[:20] += np.uint64(200_000)
            blocks = tuple(
                None if threshold is None else latency.exceedances(threshold, slow, fast, ratio=1.5)
                for threshold in latency.thresholds_us(state)
            )
            state = latency.observe(latency.update(state, blocks), latency.to_histogram(fast))
            highest = max(highest, state.log_e_value())
        crossed += highest >= math.log(1 / ALPHA)
    assert crossed <= allowed(runs)


# One request an arm stands for a block whose requests are all slow together, or none.
@pytest.mark.parametrize("sizes", [(1, 1), (6, 9)])
@pytest.mark.parametrize(("rate_c", "rate_b"), [(0.01, 0.01), (0.2, 0.2), (0.0, 0.5)])
def test_no_bet_on_slowness_expects_to_gain_within_the_null(
    sizes: tuple[int, int], rate_c: float, rate_b: float
) -> None:
    n_c, n_b = sizes
    outcomes = [(k_c, k_b) for k_c in range(n_c + 1) for k_b in range(n_b + 1)]
    chances = np.outer(binomial(n_c, rate_c), binomial(n_b, rate_b)).reshape(-1, 1)
    factors = np.array(
        [betting.log_factors(k_c / n_c - k_b / n_b, worst=1.0, shares=betting.SHARES) for k_c, k_b in outcomes]
    )
    assert np.all(np.sum(chances * np.exp(factors), axis=0) <= 1 + 1e-9)


@pytest.mark.parametrize("bound", [0.01, 0.1, 0.5])
def test_no_bet_against_the_ceiling_expects_to_gain_within_the_null(bound: float) -> None:
    blocks = [Block(n_c=12, k_c=k, n_b=0, k_b=0) for k in range(13)]
    log_e = np.array([latency.update_ceiling(latency.Ceiling(), one, bound=bound).log_e_value() for one in blocks])
    assert np.sum(binomial(12, bound) * np.exp(log_e)) <= 1 + 1e-9


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_quantile_of_the_histogram_is_within_a_bin(level: float) -> None:
    latencies = lognormal(np.random.default_rng(10), 50.0, 20_000)
    exact = float(np.quantile(latencies, level))
    bin_ratio = (latency.BIN_LAST_US / latency.BIN_FIRST_US) ** (1 / (latency.BINS - 2))
    found = latency.quantile_us(latency.to_histogram(latencies), level)
    assert exact / bin_ratio <= found <= exact * bin_ratio
