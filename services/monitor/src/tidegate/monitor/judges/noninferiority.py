"""Is the candidate good enough to get more traffic? An exact e-process against "worse by the margin or more".

Null of every block: ``p_candidate >= p_stable + margin``. The block's e-variable is the likelihood ratio of an
alternative without a relevant difference against the KL projection of it onto ``p_candidate = p_stable + margin``
(see projection.py), so the probability of ever promoting a candidate that is worse by the margin or more is at most
alpha, and no traffic is no evidence.

Without a failure on either side about ``log(1 / alpha) / margin`` candidate requests are enough (920 for 1 % and half
a percent).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from tidegate.monitor.judges.projection import RATE_MIN, Floats, log_mean, log_ratio, project
from tidegate.monitor.judges.two_sample import (
    PRIOR_FAILURES,
    PRIOR_TRIALS,
    RATE_MAX,
    Block,
    Estimates,
    astuple_estimates,
    remember,
)

# The alternatives: the candidate's rate is stable's, times a factor, plus a share of the margin.
FACTORS: Final = np.array([1.0, 0.5, 1.0, 1.0])
MARGIN_SHARES: Final = np.array([0.0, 0.0, 0.25, 0.5])
LOG_WEIGHTS: Final = np.log(np.array([0.45, 0.15, 0.2, 0.2]))
COMPONENTS: Final = len(LOG_WEIGHTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class NonInferiority:
    """State of the e-process: the log e-value of each alternative, and the estimates for the next block."""

    log_e: tuple[float, ...] = (0.0,) * COMPONENTS
    estimates: Estimates = field(default_factory=Estimates)

    def log_e_value(self) -> float:
        """Return the log of the e-value; evidence against "worse by the margin or more"."""
        return float(log_mean(np.array(self.log_e), LOG_WEIGHTS))

    def restarted(self) -> NonInferiority:
        """Return a new e-process that keeps only the estimates: for the next step of a rollout."""
        return NonInferiority(estimates=self.estimates)


def update(state: NonInferiority, block: Block, *, margin: float) -> NonInferiority:
    """Return the state after ``block``; unchanged if an arm has no traffic. ``margin`` must be positive."""
    if not block.is_concurrent():
        return state
    steps = increments(
        estimates=np.array([astuple_estimates(state.estimates)]),
        counts=np.array([[block.n_c, block.k_c, block.n_b, block.k_b]], dtype=np.float64),
        margin=margin,
    )[0]
    log_e = tuple(float(value) for value in np.array(state.log_e) + steps)
    return NonInferiority(log_e=log_e, estimates=remember(state.estimates, block))


def increments(*, estimates: Floats, counts: Floats, margin: float) -> Floats:
    """Return the log e-variable of each alternative (last axis) for many runs; columns as in two_sample."""
    k_b, n_b_seen = estimates[:, 2:3], estimates[:, 3:4]
    base = (k_b + PRIOR_FAILURES) / (n_b_seen + PRIOR_TRIALS)
    base = np.clip(base, RATE_MIN, RATE_MAX - margin)
    q_c = np.clip(FACTORS * base + MARGIN_SHARES * margin, RATE_MIN, RATE_MAX)
    q_b = np.broadcast_to(base, q_c.shape)
    n_c, k_c, n_b, k_b_new = (counts[:, column : column + 1] for column in range(4))
    p_c, p_b = project(q_c, q_b, n_c, n_b, margin)
    steps: Floats = log_ratio(q_c, p_c, n_c, k_c) + log_ratio(q_b, p_b, n_b, k_b_new)
    return steps
