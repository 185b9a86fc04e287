"""Is the candidate slower than concurrent stable by more than a ratio? A one-sided exceedance e-process.

Null of every block, for a threshold t near a quantile of stable: ``P(candidate > limit(t)) <= P(stable > t)`` with
``limit(t) = max(ratio * t, t + slack)``. It holds whenever the candidate, divided by the ratio, is not slower than
stable. It is tested at the guard's quantile and at the median and the 90th percentile: a candidate whose typical
answer is slower than the ratio allows is slow.

The threshold is chosen before the block, from stable's earlier requests; it need not be the exact quantile, because
the exceedances of *both* arms are counted in the block itself. So a box that gets slower for both arms proves nothing.

The evidence of a block is a bet on the difference of the two shares of slow requests (see betting.py). The likelihood
ratio of independent requests would find a longer tail with fewer requests, but slow requests come in clusters: with
stalls that hit both arms alike, 0.3 s every 5 s, it rolled 13 % of healthy candidates back within two minutes, the
bet none.

Differences smaller than ``slack`` never count: on a shared machine they say more about the neighbours. Only requests
that were answered with 2xx count: how long a failure takes is the error guard's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tidegate.monitor.judges import betting
from tidegate.monitor.judges.projection import log_mean
from tidegate.monitor.judges.two_sample import Block
from tidegate.monitor.judges.wealth import Wealth

BINS: Final = 48
BIN_FIRST_US: Final = 200.0
BIN_LAST_US: Final = 60_000_000.0
_BIN_EDGES: Final = np.geomspace(BIN_FIRST_US, BIN_LAST_US, BINS - 1)
# Requests of stable that the histogram remembers.
MEMORY_REQUESTS: Final = 5_000.0
# Fewer requests of stable than this beyond the threshold, on average, would make the threshold noise.
EXCEEDANCES_MIN: Final = 2.0
SLACK_US: Final = 25_000.0
LOWER_LEVELS: Final = (0.5, 0.9)

Latencies = NDArray[np.uint64]
Histogram = tuple[float, ...]

EMPTY: Final[Histogram] = (0.0,) * BINS


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """State against stable: its histogram of earlier blocks, and the wealth bet at each watched level."""

    levels: tuple[float, ...]
    stable: Histogram = EMPTY
    wealth: tuple[Wealth, ...] = ()

    def log_e_value(self) -> float:
        """Return the log of the mean e-value over the levels."""
        values = np.array([one.log_total() for one in self.wealth_by_level()])
        return float(log_mean(values, np.log(np.full(len(values), 1.0 / len(values)))))

    def wealth_by_level(self) -> tuple[Wealth, ...]:
        """Return the wealth at each level, also before the first block."""
        return self.wealth or (Wealth(),) * len(self.levels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceiling:
    """State against a fixed ceiling, for traffic without concurrent stable traffic.

    Null: the mean share of requests above the ceiling is at most ``1 - quantile``.
    """

    wealth: Wealth = field(default_factory=Wealth)

    def log_e_value(self) -> float:
        """Return the log of the e-value; evidence against "at most the bound"."""
        return self.wealth.log_total()


def watched_levels(quantile: float) -> tuple[float, ...]:
    """Return the levels at which a guard on ``quantile`` compares."""
    return tuple(sorted({*LOWER_LEVELS, quantile}))


def to_histogram(latencies_us: Latencies) -> Histogram:
    """Return the counts of ``latencies_us`` in BINS logarithmic bins, the last and first open."""
    bins = np.searchsorted(_BIN_EDGES, latencies_us.astype(np.float64), side="right")
    return tuple(float(count) for count in np.bincount(bins, minlength=BINS))


def add(left: Histogram, right: Histogram) -> Histogram:
    """Return the sum of two histograms."""
    return tuple(a + b for a, b in zip(left, right, strict=True))


def quantile_us(histogram: Histogram, level: float) -> float:
    """Return the quantile of ``level`` in microseconds, by log-linear interpolation within its bin; 0 if empty."""
    total = sum(histogram)
    if total == 0:
        return 0.0
    below, rank = 0.0, level * total
    for index, count in enumerate(histogram):
        if count > 0 and below + count >= rank:
            low = BIN_FIRST_US / 2 if index == 0 else float(_BIN_EDGES[index - 1])
            high = float(_BIN_EDGES[min(index, BINS - 2)])
            return float(low * (high / low) ** ((rank - below) / count))
        below += count
    return BIN_LAST_US


def thresholds_us(state: Latency) -> tuple[float | None, ...]:
    """Return the threshold of each level for the next block; None while stable has too few requests to choose one."""
    total = sum(state.stable)
    return tuple(
        quantile_us(state.stable, level) if total * (1.0 - level) >= EXCEEDANCES_MIN else None for level in state.levels
    )


def limit_us(threshold_us: float, *, ratio: float, slack_us: float = SLACK_US) -> float:
    """Return the latency that the candidate may have where stable has ``threshold_us``."""
    return max(ratio * threshold_us, threshold_us + slack_us)


def exceedances(
    threshold_us: float, candidate: Latencies, stable: Latencies, *, ratio: float, slack_us: float = SLACK_US
) -> Block:
    """Return how many of each arm are slower than they may be."""
    return Block(
        n_c=len(candidate),
        k_c=int(np.count_nonzero(candidate > limit_us(threshold_us, ratio=ratio, slack_us=slack_us))),
        n_b=len(stable),
        k_b=int(np.count_nonzero(stable > threshold_us)),
    )


def update(state: Latency, blocks: tuple[Block | None, ...]) -> Latency:
    """Return the state after a block of exceedances at each level; its histogram comes by :func:`observe`."""
    by_level = zip(state.wealth_by_level(), blocks, strict=True)
    return replace(state, wealth=tuple(_bet(wealth, block) for wealth, block in by_level))


def _bet(wealth: Wealth, block: Block | None) -> Wealth:
    if block is None or not block.is_concurrent():
        return wealth
    difference = block.k_c / block.n_c - block.k_b / block.n_b
    return betting.bet(wealth, difference, worst=1.0, shares=betting.SHARES)


def update_ceiling(state: Ceiling, block: Block, *, bound: float) -> Ceiling:
    """Return the state after a block of candidate's requests, ``k_c`` of them above the ceiling."""
    if block.n_c == 0:
        return state
    x = block.k_c / block.n_c - bound
    return Ceiling(wealth=betting.bet(state.wealth, x, worst=bound, shares=betting.CAUTIOUS_SHARES))


def observe(state: Latency, stable: Histogram) -> Latency:
    """Return the state that knows stable's requests of a closed block, for the thresholds of the next."""
    return replace(state, stable=_fade(add(state.stable, stable)))


def _fade(histogram: Histogram) -> Histogram:
    total = sum(histogram)
    if total <= MEMORY_REQUESTS:
        return histogram
    return tuple(count * MEMORY_REQUESTS / total for count in histogram)
