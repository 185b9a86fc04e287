"""Order statistics of small samples, and bounds on what was never seen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

# "Never seen in n" is compatible with a rate of up to 3/n (95 %): the rule of three.
RULE_OF_THREE: Final = 3.0
# 0.07 * 100 is a little above 7 in binary: that is rank 7, not 8.
RANK_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What a list of measurements says, in the unit of its values."""

    count: int
    smallest: float
    p50: float
    p90: float
    p99: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarize ``values``; raises ValueError if there are none."""
        ordered = sorted(values)
        return cls(
            count=len(ordered),
            smallest=ordered[0],
            p50=statistics.median(ordered),
            p90=quantile(ordered, 0.90),
            p99=quantile(ordered, 0.99),
            largest=ordered[-1],
        )


def quantile(ordered: Sequence[float], level: float) -> float:
    """Return the nearest-rank quantile of sorted values: at least the share ``level`` of them is not above it.

    It never interpolates between measurements: below 1 / (1 - level) values it is the largest one.
    """
    if not ordered:
        raise ValueError("there are no values, expected at least one")
    return ordered[max(0, math.ceil(level * len(ordered) - RANK_TOLERANCE) - 1)]


def confidence_of_largest(count: int, level: float) -> float:
    """Return how sure it is that the largest of ``count`` independent values is not below the quantile ``level``."""
    return 1.0 - level**count


def rate_bound(trials: int) -> float:
    """Return the rate that 0 failures in ``trials`` exclude with 95 % (rule of three)."""
    return RULE_OF_THREE / trials if trials else 1.0
