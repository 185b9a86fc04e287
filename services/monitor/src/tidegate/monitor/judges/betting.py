"""Bets against a null on a mean: evidence that stays valid when failures within a block come in clusters.

A block gives one number x with a mean of at most zero under the null and x >= -worst. For a share s in (0, 1), ``1 +
(s / worst) x`` is an e-variable whatever the distribution of x (Waudby-Smith and Ramdas 2024, "Estimating means of
bounded random variables by betting", JRSS B 86; Shafer 2021). Requests of one block may depend on one another as they
like: one stall of a server is one event here, not thirty. The e-process bets on several shares at once (see wealth.py).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tidegate.monitor.judges.projection import Floats
from tidegate.monitor.judges.wealth import Wealth

Shares = tuple[float, ...]

# Against stable, where worst = 1: all of stable's requests slow and none of the candidate's.
SHARES: Final[Shares] = (0.1, 0.3, 0.6, 0.95)
# Against a small bound, where worst = bound; small shares, because a stall may be longer than a block.
CAUTIOUS_SHARES: Final[Shares] = (0.01, 0.03, 0.1)


def bet(wealth: Wealth, x: float, *, worst: float, shares: Shares) -> Wealth:
    """Return the wealth after a block with mean difference ``x``."""
    return wealth.after(log_factors(x, worst=worst, shares=shares), np.log(np.full(len(shares), 1.0 / len(shares))))


def log_factors(x: float, *, worst: float, shares: Shares) -> Floats:
    """Return the log e-variable of each share for a block with mean difference ``x``."""
    return np.log1p(np.array(shares) * (x / worst))
