"""How much evidence there is: wealth won by betting against the null, kept so that a tide that turns late is seen soon.

An e-process is the wealth of a gambler who starts with 1 and cannot expect to gain while the null holds. A plain
mixture bets everything at the start, and hours of a healthy candidate would leave nothing to bet with when it fails
at last. So a part stays in cash, and before each block a share of the cash is bet anew: a mixture over the times at
which the candidate may turn bad. Moving wealth creates none, so the guarantee stays the same at all times (a mixture
over change points, as in Shin, Ramdas and Rinaldo 2022, "E-detectors", but with a prior that sums to one, so that the
false-alarm probability and not only its rate is bounded).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from tidegate.monitor.judges.projection import Floats, log_mean

# Bet at the start; the more, the sooner a candidate is found that was bad from the beginning.
BET_FIRST: Final = 0.92
# Before block t (from 0) this share of the cash is bet: RATE / (t + DELAY).
RATE: Final = 0.5
DELAY: Final = 50.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Wealth:
    """Logs of what was bet on each alternative and of the cash, after ``blocks`` blocks; empty before the first."""

    log_bets: tuple[float, ...] = ()
    log_cash: float = 0.0
    blocks: int = 0

    def log_total(self) -> float:
        """Return the log of the e-value."""
        if not self.log_bets:
            return 0.0
        return float(log_sum(np.array([*self.log_bets, self.log_cash])))

    def after(self, log_factors: Floats, log_weights: Floats) -> Wealth:
        """Return the wealth after a block that multiplies each bet by its factor."""
        bets = np.array([self.log_bets]) if self.log_bets else np.full((1, len(log_weights)), -np.inf)
        cash = np.array([self.log_cash])
        bets, cash = play(bets, cash, np.array([self.blocks]), log_factors[np.newaxis, :], log_weights)
        return Wealth(
            log_bets=tuple(float(value) for value in bets[0]), log_cash=float(cash[0]), blocks=self.blocks + 1
        )


def play(
    log_bets: Floats, log_cash: Floats, blocks: Floats, log_factors: Floats, log_weights: Floats
) -> tuple[Floats, Floats]:
    """Return bets and cash after one block, for many runs at once (first axis); -inf = nothing is bet yet."""
    share = np.where(blocks == 0, BET_FIRST, RATE / (blocks + DELAY))
    fresh = (log_cash + np.log(share))[:, np.newaxis] + log_weights
    return np.logaddexp(log_bets, fresh) + log_factors, log_cash + np.log1p(-share)


def log_sum(logs: Floats) -> Floats:
    """Return the log of the sum of exponentials over the last axis."""
    return log_mean(logs, np.zeros(logs.shape[-1]))
