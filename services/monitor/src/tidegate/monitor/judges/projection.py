"""Likelihood ratios of two Bernoulli arms against the nearest point of a null (reverse information projection).

The null of a block is a convex set bounded by ``p_candidate = p_stable + margin``. For an alternative ``(q_c, q_b)``
outside of it, the block's e-variable is its likelihood ratio against the point of the boundary that minimises ``n_c
KL(q_c || p_c) + n_b KL(q_b || p_b)``.

Why it is an e-variable (Turner, Ly and Gruenwald 2021, "Generic E-variables for exact sequential k-sample tests that
allow for optional stopping", arXiv:2106.02693; Gruenwald, de Heide and Koolen 2019, arXiv:1906.07801): with ``1 +
u_x`` the expected ratio of one request of arm x, ``n_c log(1 + u_c) + n_b log(1 + u_b) <= n_c u_c + n_b u_b <= 0``,
the last step by the Karush-Kuhn-Tucker condition of the projection on a convex set. The ratio is linear in the rates,
so only an arm's mean rate within the block matters, and nothing is assumed about how rates move from one block to the
next.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RATE_MIN: Final = 1e-6
PROJECTION_MIN: Final = 1e-12
BISECTIONS: Final = 52


def project(q_c: Floats, q_b: Floats, n_c: Floats, n_b: Floats, margin: float) -> tuple[Floats, Floats]:
    """Return the point ``(p_b + margin, p_b)`` nearest to the alternative; arrays broadcast against one another.

    The distance is convex in ``p_b``, and its minimum lies between ``q_b`` and ``q_c - margin``, on whichever side of
    the boundary the alternative is, so bisection of the derivative finds it.
    """
    if margin == 0.0:
        shared = (n_c * q_c + n_b * q_b) / (n_c + n_b)
        return shared, shared
    lowest, highest = PROJECTION_MIN, 1.0 - margin - RATE_MIN
    low = np.clip(np.minimum(q_b, q_c - margin), lowest, highest)
    high = np.clip(np.maximum(q_b, q_c - margin), lowest, highest)
    for _ in range(BISECTIONS):
        p_b = 0.5 * (low + high)
        p_c = p_b + margin
        slope = n_c * (p_c - q_c) / (p_c * (1.0 - p_c)) + n_b * (p_b - q_b) / (p_b * (1.0 - p_b))
        low = np.where(slope < 0.0, p_b, low)
        high = np.where(slope < 0.0, high, p_b)
    p_b = 0.5 * (low + high)
    return p_b + margin, p_b


def log_ratio(q: Floats, p: Floats, trials: Floats, failures: Floats) -> Floats:
    """Return the log-likelihood ratio of ``q`` to ``p`` for ``failures`` of ``trials``."""
    ratio: Floats = failures * np.log(q / p) + (trials - failures) * np.log((1.0 - q) / (1.0 - p))
    return ratio


def scale_odds(rate: Floats, odds_ratio: Floats) -> Floats:
    """Return the rate whose odds are ``odds_ratio`` times those of ``rate``."""
    scaled: Floats = odds_ratio * rate / (1.0 - rate + odds_ratio * rate)
    return scaled


def log_mean(log_e: Floats, log_weights: Floats) -> Floats:
    """Return the log of the weighted mean of e-values over the last axis."""
    terms = log_e + log_weights
    top = np.max(terms, axis=-1, keepdims=True)
    mean: Floats = np.log(np.sum(np.exp(terms - top), axis=-1)) + top[..., 0]
    return mean
