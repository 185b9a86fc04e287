"""Is a failure rate above a fixed bound? For traffic without concurrent stable traffic.

Null: ``p <= bound`` for every request. The e-process is a mixture over alternatives of the likelihood ratios ``q`` to
``bound``; since each ratio grows with ``p``, its expectation at ``p <= bound`` is at most one (Wald 1945; Ville's
inequality gives the guarantee at all times).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from tidegate.monitor.judges.projection import RATE_MIN, Floats, log_ratio, scale_odds
from tidegate.monitor.judges.wealth import Wealth

ODDS_RATIOS: Final = np.array([1.4, 2.0, 3.0, 6.0, 15.0, 60.0])
LOG_WEIGHTS: Final = np.log(np.full(len(ODDS_RATIOS), 1.0 / len(ODDS_RATIOS)))
BOUND_MAX: Final = 0.99


@dataclass(frozen=True, kw_only=True, slots=True)
class Absolute:
    """State of the e-process: the wealth bet on each alternative."""

    wealth: Wealth = field(default_factory=Wealth)

    def log_e_value(self) -> float:
        """Return the log of the e-value; evidence against "at most the bound"."""
        return self.wealth.log_total()


def update(state: Absolute, *, trials: int, failures: int, bound: float) -> Absolute:
    """Return the state after ``failures`` of ``trials`` requests."""
    if trials == 0:
        return state
    steps = increments(np.array([[trials]]), np.array([[failures]]), bound=bound)[0]
    return Absolute(wealth=state.wealth.after(steps, LOG_WEIGHTS))


def increments(trials: Floats, failures: Floats, *, bound: float) -> Floats:
    """Return the log e-variable of each alternative (last axis) for many runs at once (first axis; columns of one)."""
    null = np.clip(np.array(bound, dtype=np.float64), RATE_MIN, BOUND_MAX)
    return log_ratio(scale_odds(null, ODDS_RATIOS), null, trials, failures)
