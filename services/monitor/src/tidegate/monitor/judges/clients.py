"""Did client errors (4xx) jump when all traffic went to another version? For traffic without concurrent stable traffic.

A client error alone says nothing about a version: callers send rubbish. But a version that refuses what the one before
it answered shows as a jump. So the share of client errors is compared with stable's of before the switch: the bound is
the upper confidence limit of that share (Chernoff's, at half of the guard's alpha) plus the margin, and blocks of at
least a second are bets against it (latency.Ceiling, at the other half). By the union bound the guard breaches falsely
with probability at most its alpha, whatever happens within a block. Where nothing was seen before, nothing is judged.

Who calls counts, not how often: each unit of a batch counts once, by its first answer in it. And the unit that has
failed most often so far is left out, unless it is the only one: one caller who begins to send rubbish at the moment of
the switch is no evidence. Which one that is was known before the batch, so leaving it out favours no side. A request
that names no unit is a unit of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tidegate.monitor.judges.two_sample import Block

Units = NDArray[np.uint64]
Flags = NDArray[np.bool_]

NO_UNIT: Final = 0
# Answers of the past that are remembered; older ones fade.
PAST_MAX: Final = 100_000.0
SUSPECTS_MAX: Final = 8
# Failing units of one batch that are looked at in search of the one that fails most.
FAILING_MAX: Final = 64
BISECTIONS: Final = 52


@dataclass(frozen=True, kw_only=True, slots=True)
class Clients:
    """Stable's client errors before the switch, and which units failed most since; ``suspects`` has (unit, batches)."""

    past_answers: float = 0.0
    past_errors: float = 0.0
    suspects: tuple[tuple[int, int], ...] = ()
    first_unit: int = NO_UNIT
    several: bool = False

    def suspect(self) -> int:
        """Return the unit to leave out, or NO_UNIT."""
        if not self.several or not self.suspects:
            return NO_UNIT
        return max(self.suspects, key=lambda one: one[1])[0]


def count(units: Units, errors: Flags, *, without: int = NO_UNIT) -> tuple[int, int]:
    """Return how many callers were answered, and how many of them got a client error first; ``without`` is left out."""
    named, bad = _first_answers(units, errors)
    kept = named != without
    lone = units == NO_UNIT
    return int(lone.sum() + kept.sum()), int(errors[lone].sum() + bad[kept].sum())


def remember(state: Clients, units: Units, errors: Flags) -> Clients:
    """Return the state that knows answers of stable from before the switch."""
    answers, bad = count(units, errors)
    total = state.past_answers + answers
    keep = 1.0 if total <= PAST_MAX else PAST_MAX / total
    return replace(state, past_answers=keep * total, past_errors=keep * (state.past_errors + bad))


def block_of(state: Clients, units: Units, errors: Flags) -> Block:
    """Return a batch since the switch as a block of its own."""
    answers, bad = count(units, errors, without=state.suspect())
    return Block(n_c=answers, k_c=bad, n_b=0, k_b=0)


def watch(state: Clients, units: Units, errors: Flags) -> Clients:
    """Return the state that knows who failed in a batch since the switch."""
    named, bad = _first_answers(units, errors)
    first = state.first_unit or (int(named[0]) if len(named) else NO_UNIT)
    several = state.several or bool((units == NO_UNIT).any() or (named != first).any())
    suspects = _suspected(state.suspects, (int(unit) for unit in named[bad][:FAILING_MAX]))
    return replace(state, suspects=suspects, first_unit=first, several=several)


def bound_of(state: Clients, *, margin: float, level: float) -> float | None:
    """Return the share that is tolerated: the past's upper confidence limit at ``level`` plus ``margin``.

    None if the past is too short for any share to be too high.
    """
    if state.past_answers <= 0:
        return None
    bound = upper_limit(state.past_errors, state.past_answers, level=level) + margin
    return bound if bound < 1.0 else None


def upper_limit(errors: float, answers: float, *, level: float) -> float:
    """Return the greatest rate under which so few errors have Chernoff's probability of at least ``level``."""
    share, most = errors / answers, -math.log(level) / answers
    low, high = share, 1.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _divergence(share, middle) < most else (low, middle)
    return high


def _divergence(share: float, rate: float) -> float:
    """Return KL(share || rate) for rate >= share."""
    if rate >= 1.0:
        return math.inf if share < 1.0 else 0.0
    kept = (1.0 - share) * math.log((1.0 - share) / (1.0 - rate)) if share < 1.0 else 0.0
    return kept + (share * math.log(share / rate) if share > 0.0 else 0.0)


def _first_answers(units: Units, errors: Flags) -> tuple[Units, Flags]:
    """Return the named units in order of time, and whether the first answer of each was a client error."""
    places = np.flatnonzero(units != NO_UNIT)
    _, first = np.unique(units[places], return_index=True)
    chosen = places[np.sort(first)]
    return units[chosen], errors[chosen]


def _suspected(known: tuple[tuple[int, int], ...], failing: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Return the counts after ``failing`` (space saving: a newcomer takes the place of the one that failed least)."""
    counts = dict(known)
    for unit in failing:
        if unit not in counts and len(counts) >= SUSPECTS_MAX:
            least = min(counts, key=lambda one: counts[one])
            counts[unit] = counts.pop(least)
        counts[unit] = counts.get(unit, 0) + 1
    return tuple(counts.items())
