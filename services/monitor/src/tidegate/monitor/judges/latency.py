"""Is the candidate slower than concurrent stable by more than a ratio? A one-sided exceedance e-process.

Null of every block, for the watched level (say 0.99) and a threshold t near stable's quantile of that level:
``P(candidate > limit(t)) <= P(stable > t)`` with ``limit(t) = max(ratio * t, t + slack)``. That follows from "the
candidate's quantile is at most ratio times stable's" taken at every t. The threshold is chosen before the block, from
stable's earlier requests; it need not be the exact quantile, because the exceedances of *both* arms are counted in
the block itself. So a box that gets slower for both arms proves nothing.

Two things make it conservative on a noisy machine: differences smaller than ``slack`` never count, and one block can
multiply the e-value by at most E_BLOCK_MAX, because slow requests come in clusters (one stall is not many independent
events).

Only requests that were answered with 2xx count: how long a failure takes is the error guard's business.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tidegate.monitor.judges import two_sample
from tidegate.monitor.judges.two_sample import Block, TwoSample

BINS: Final = 48
BIN_FIRST_US: Final = 200.0
BIN_LAST_US: Final = 60_000_000.0
_BIN_EDGES: Final = np.geomspace(BIN_FIRST_US, BIN_LAST_US, BINS - 1)
# Requests of stable that the histogram remembers.
MEMORY_REQUESTS: Final = 5_000.0
# Fewer requests of stable than this beyond the threshold, on average, would make the threshold noise.
EXCEEDANCES_MIN: Final = 2.0
SLACK_US: Final = 25_000.0
E_BLOCK_MAX: Final = 8.0
LOG_E_BLOCK_MAX: Final = math.log(E_BLOCK_MAX)

Latencies = NDArray[np.uint64]
Histogram = tuple[float, ...]

EMPTY: Final[Histogram] = (0.0,) * BINS


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """State: stable's histogram of earlier blocks, and one e-process for each watched level."""

    levels: tuple[float, ...]
    stable: Histogram = EMPTY
    processes: tuple[TwoSample, ...] = ()

    def log_e_value(self) -> float:
        """Return the log of the mean e-value over the levels."""
        values = [process.log_e_value() for process in self.processes or (TwoSample(),) * len(self.levels)]
        top = max(values)
        return top + math.log(sum(math.exp(value - top) for value in values) / len(values))


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


def update(state: Latency, blocks: tuple[Block | None, ...], *, log_e_block_max: float = LOG_E_BLOCK_MAX) -> Latency:
    """Return the state after a block of exceedances at each level; its histogram comes by :func:`observe`."""
    processes = tuple(
        process if block is None else two_sample.update(process, block, margin=0.0, log_e_block_max=log_e_block_max)
        for process, block in zip(state.processes or (TwoSample(),) * len(state.levels), blocks, strict=True)
    )
    return replace(state, processes=processes)


def observe(state: Latency, stable: Histogram) -> Latency:
    """Return the state that knows stable's requests of a closed block, for the thresholds of the next."""
    return replace(state, stable=_fade(add(state.stable, stable)))


def _fade(histogram: Histogram) -> Histogram:
    total = sum(histogram)
    if total <= MEMORY_REQUESTS:
        return histogram
    return tuple(count * MEMORY_REQUESTS / total for count in histogram)
