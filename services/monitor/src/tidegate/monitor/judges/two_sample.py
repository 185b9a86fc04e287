"""Is the candidate's failure rate worse than concurrent stable's by more than a margin? A safe two-sample e-process.

Null of every block: ``p_candidate <= p_stable + margin``, with rates that may be anything in each block. The
e-process is a mixture over alternatives of products over blocks of concurrent traffic (see projection.py for the
e-variable of a block and its source). A block never spans two route revisions, so neither a base rate that drifts nor
weights that ramp can feign a difference (Simpson's paradox).

The alternatives are predictable: they use only earlier blocks. Each one multiplies the odds of ``estimated p_stable +
margin`` by a factor; one more is the candidate's own estimate.

The margin belongs to the null, so a candidate that is worse by no more than the tolerated margin is rolled back with
probability at most alpha, exactly as one that is no worse at all; and the promotion judge tests the complement.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from tidegate.monitor.judges.projection import RATE_MIN, Floats, log_ratio, project, scale_odds
from tidegate.monitor.judges.wealth import Wealth

ODDS_RATIOS: Final = np.array([1.7, 3.0, 6.0, 14.0, 60.0])
# The last component is the alternative learned from the candidate's own earlier blocks.
LOG_WEIGHTS: Final = np.log(np.array([0.18, 0.16, 0.22, 0.2, 0.1, 0.14]))
PRIOR_FAILURES: Final = 0.1
PRIOR_TRIALS: Final = 10.0
# Requests that an estimate remembers: long enough to estimate 0.5 %, short enough to follow a rate that drifts.
MEMORY_TRIALS: Final = 5_000.0
# A boundary nearer to zero would spend the mixture on rates that nobody can tell apart.
BOUNDARY_MIN: Final = 1e-3
RATE_MAX: Final = 0.999


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Concurrent requests of one route revision: trials and failures of candidate (c) and stable (b)."""

    n_c: int
    k_c: int
    n_b: int
    k_b: int

    def is_concurrent(self) -> bool:
        """Say whether both arms have traffic; otherwise the block holds no comparison."""
        return self.n_c > 0 and self.n_b > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimates:
    """Failures and trials that the estimates of the two rates remember."""

    k_c: float = 0.0
    n_c: float = 0.0
    k_b: float = 0.0
    n_b: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoSample:
    """State of the e-process: the wealth bet on each alternative, and the estimates for the next block."""

    wealth: Wealth = field(default_factory=Wealth)
    estimates: Estimates = field(default_factory=Estimates)

    def log_e_value(self) -> float:
        """Return the log of the e-value; evidence against "no worse than the margin allows"."""
        return self.wealth.log_total()


def update(state: TwoSample, block: Block, *, margin: float) -> TwoSample:
    """Return the state after ``block``; unchanged if an arm has no traffic."""
    if not block.is_concurrent():
        return state
    steps = increments(
        estimates=np.array([astuple_estimates(state.estimates)]),
        counts=np.array([[block.n_c, block.k_c, block.n_b, block.k_b]], dtype=np.float64),
        margin=margin,
    )[0]
    return TwoSample(wealth=state.wealth.after(steps, LOG_WEIGHTS), estimates=remember(state.estimates, block))


def astuple_estimates(estimates: Estimates) -> tuple[float, float, float, float]:
    """Return the estimates in the order of the columns of :func:`increments`."""
    return (estimates.k_c, estimates.n_c, estimates.k_b, estimates.n_b)


def increments(*, estimates: Floats, counts: Floats, margin: float) -> Floats:
    """Return the log e-variable of each alternative (last axis) for many runs at once (first axis).

    Columns of ``estimates``: k_c, n_c, k_b, n_b; of ``counts``: n_c, k_c, n_b, k_b, all positive trials.
    """
    q_c, q_b = _alternatives(estimates, margin)
    n_c, k_c, n_b, k_b = (counts[:, column : column + 1] for column in range(4))
    p_c, p_b = project(q_c, q_b, n_c, n_b, margin)
    steps = log_ratio(q_c, p_c, n_c, k_c) + log_ratio(q_b, p_b, n_b, k_b)
    # An alternative that lies within the null has nothing to say against it.
    return np.where(q_c > q_b + margin, steps, 0.0)


def _alternatives(estimates: Floats, margin: float) -> tuple[Floats, Floats]:
    k_c, n_c, k_b, n_b = (estimates[:, column : column + 1] for column in range(4))
    base = np.clip((k_b + PRIOR_FAILURES) / (n_b + PRIOR_TRIALS), RATE_MIN, RATE_MAX - margin)
    boundary = np.clip(base + margin, BOUNDARY_MIN, RATE_MAX)
    worse = np.minimum(scale_odds(boundary, ODDS_RATIOS), RATE_MAX)
    own = np.clip((k_c + PRIOR_FAILURES) / (n_c + PRIOR_TRIALS), RATE_MIN, RATE_MAX)
    q_c = np.concatenate([worse, own], axis=1)
    return q_c, np.broadcast_to(base, q_c.shape)


def remember(estimates: Estimates, block: Block) -> Estimates:
    """Return the estimates after ``block``; older requests fade when the memory is full."""
    k_c, n_c = _remember_arm(estimates.k_c, estimates.n_c, block.k_c, block.n_c)
    k_b, n_b = _remember_arm(estimates.k_b, estimates.n_b, block.k_b, block.n_b)
    return Estimates(k_c=k_c, n_c=n_c, k_b=k_b, n_b=n_b)


def _remember_arm(failures: float, trials: float, new_failures: int, new_trials: int) -> tuple[float, float]:
    total = trials + new_trials
    keep = 1.0 if total <= MEMORY_TRIALS else MEMORY_TRIALS / total
    return keep * (failures + new_failures), keep * total
