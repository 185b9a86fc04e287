"""Bets against a null on a mean: evidence that stays valid when failures within a block come in clusters.

A block gives one number x with a mean of at most zero under the null and x >= -worst. For a share s in (0, 1), ``1 +
(s / worst) x`` is an e-variable whatever the distribution of x (Waudby-Smith and Ramdas 2024, "Estimating means of
bounded random variables by betting", JRSS B 86; Shafer 2021). Requests of one block may depend on one another as they
like: one stall of a server is one event here, not thirty. The e-process is a mixture over shares.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tidegate.monitor.judges.projection import log_mean

Shares = tuple[float, ...]

# Against stable, where worst = 1: all of stable's requests slow and none of the candidate's.
SHARES: Final[Shares] = (0.1, 0.3, 0.6, 0.95)
# Against a small bound, where worst = bound; small shares, because a stall may be longer than a block.
CAUTIOUS_SHARES: Final[Shares] = (0.01, 0.03, 0.1)


def bet(log_e: tuple[float, ...], x: float, *, worst: float, shares: Shares) -> tuple[float, ...]:
    """Return the log wealth of each share after a block with mean difference ``x``."""
    gained = np.log1p(np.array(shares) * (x / worst))
    return tuple(float(value) for value in np.array(log_e) + gained)


def start(shares: Shares) -> tuple[float, ...]:
    """Return the log wealth before any bet."""
    return (0.0,) * len(shares)


def log_wealth(log_e: tuple[float, ...]) -> float:
    """Return the log of the mean wealth over the shares."""
    return float(log_mean(np.array(log_e), np.log(np.full(len(log_e), 1.0 / len(log_e)))))
