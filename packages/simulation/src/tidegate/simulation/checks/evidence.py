"""Evidence: what the monitor counts, and what it must conclude from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tidegate.monitor.batches import Slice, is_success
from tidegate.monitor.judges.replay import replay
from tidegate.monitor.judges.values import ERROR_RATE, ArmBatch, Batch, Guard
from tidegate.monitor.judges.values import Decision as Judgement
from tidegate.monitor.rollouts import Rollout as Watched
from tidegate.simulation.checks.facts import Facts, RouteKey, Tally
from tidegate.simulation.checks.requests import RequestChecks
from tidegate.simulation.invariants import Invariant
from tidegate.simulation.world import Broken

# A candidate this far beyond its margin (or its floor) after so many requests must have breached. With failure rates of
# .5 and 0 and a margin of .25 the e-process gains .14 a candidate's request beside a large stable, .33 an effective one
# where both are as large. It needs 4.4 for its threshold (2 guards of 2 kinds, alpha .05) and 2 for the mixture. One
# that turns late has lost its first bets, but needs many more requests to come as far above its margin.
EXCESS: Final = 0.25
EFFECTIVE_MIN: Final = 60.0
ALONE_MIN: Final = 120


@dataclass(kw_only=True, slots=True)
class Toll:
    """What a rollout's candidate has truly done: beside stable, and where it was alone.

    Differences are weighed route by route by the effective requests of a route, ``n_c n_b / (n_c + n_b)`` (Mantel and
    Haenszel 1959), since totals over routes whose weights moved can feign a difference. Batches would not do: a failure
    can wait one slice for another arm's answer, so that it comes in a later batch than the successes.
    """

    beside: dict[RouteKey, tuple[Tally, Tally]] = field(default_factory=dict)
    alone: Tally = field(default_factory=Tally)

    def add_beside(self, route: RouteKey, candidate: Tally, stable: Tally) -> None:
        """Count a batch of a route where both have a share."""
        for known, more in zip(self.beside.setdefault(route, (Tally(), Tally())), (candidate, stable), strict=True):
            known.add_all(more)

    def add_alone(self, candidate: Tally) -> None:
        """Count a batch where stable has no share."""
        self.alone.add_all(candidate)

    def must_have_breached(self, guard: Guard) -> bool:
        """Say whether this is far more than ``guard`` needs."""
        effective, difference = self._compared()
        if effective >= EFFECTIVE_MIN and difference >= (guard.margin + EXCESS) * effective:
            return True
        if not guard.floor or self.alone.requests < ALONE_MIN:
            return False
        return self.alone.failures / self.alone.requests >= guard.floor + EXCESS

    def _compared(self) -> tuple[float, float]:
        """Return the effective requests, and the sum of the differences weighed by them."""
        effective, difference = 0.0, 0.0
        for candidate, stable in self.beside.values():
            if candidate.requests and stable.requests:
                weight = candidate.requests * stable.requests / (candidate.requests + stable.requests)
                effective += weight
                rates = candidate.failures / candidate.requests - stable.failures / stable.requests
                difference += weight * rates
        return effective, difference


class EvidenceChecks:
    """Sees what the monitor counts and finds."""

    def __init__(self, facts: Facts, requests: RequestChecks) -> None:
        self._facts = facts
        self._requests = requests
        self._counted: set[tuple[str, str]] = set()
        self._slices: dict[str, dict[str, Tally]] = {}
        self._tolls: dict[str, Toll] = {}
        self._breached: set[str] = set()

    def on_slice(self, part: Slice, event_id: str) -> None:
        """Check that each request counts for the arm that it was assigned to, by what that arm did."""
        truth: dict[str, Tally] = {}
        for row in part.rows:
            arm, status = self._requests.attempts.pop(row.request_id, (row.assigned_arm, row.status))
            if arm != row.assigned_arm or is_success(status) != is_success(row.status):
                told = f"{row.request_id} of {arm} ended with {status}, counted is {row.status} of {row.assigned_arm}"
                raise Broken(Invariant.COUNTED_BY_ASSIGNMENT, told)
            truth.setdefault(arm, Tally()).add(is_failure=not is_success(status))
        self._slices[event_id] = truth

    def on_judged(self, rollout: Watched, judgement: Judgement) -> None:
        """Check that findings can be computed again, and that evidence is no guess."""
        findings = [*judgement.breaches] + ([judgement.reached] if judgement.reached is not None else [])
        for finding in findings:
            if replay(finding.inputs_json) != finding.evidence.e_value:
                raise Broken(Invariant.DECIDED_AGAIN, f"{finding.evidence} from {finding.inputs_json}")
        reached, alpha = judgement.reached, rollout.judge.rules.alpha
        if reached is not None and reached.evidence.e_value < 1.0 / alpha:
            raise Broken(Invariant.NOTHING_IS_UNKNOWN, f"{rollout.rollout_id} reached {reached.evidence}")
        if judgement.breaches:
            self._breached.add(rollout.rollout_id)

    def on_counted(self, judged: list[tuple[Watched, Batch]], event_id: str) -> None:
        """Check that a batch counts once, as what it is, and that enough failures are a breach."""
        truth = self._slices.get(event_id, {})
        for rollout, batch in judged:
            if (rollout.rollout_id, event_id) in self._counted:
                raise Broken(Invariant.BATCHES_COUNT_ONCE, f"{event_id} counted twice for {rollout.rollout_id}")
            self._counted.add((rollout.rollout_id, event_id))
            candidate = truth.get(rollout.candidate, Tally())
            stable = truth.get(rollout.stable, Tally())
            for tally, arm in ((candidate, batch.candidate), (stable, batch.stable)):
                _check_counts(rollout, tally, arm)
            self._check_toll(rollout, batch, candidate, stable)

    def _check_toll(self, rollout: Watched, batch: Batch, candidate: Tally, stable: Tally) -> None:
        life = self._facts.lives.get(rollout.rollout_id)
        weights = None if life is None else self._facts.main_lines.get((life.model, batch.route))
        guard = next((one for one in rollout.judge.rules.guards if one.metric == ERROR_RATE), None)
        if weights is None or guard is None:
            return
        toll = self._tolls.setdefault(rollout.rollout_id, Toll())
        if weights.get(rollout.stable):
            toll.add_beside(batch.route, candidate, stable)
        else:
            toll.add_alone(candidate)
        if rollout.rollout_id not in self._breached and toll.must_have_breached(guard):
            raise Broken(Invariant.MUCH_WORSE_BREACHES, f"{rollout.rollout_id} has not: {toll}")


def _check_counts(rollout: Watched, truth: Tally, arm: ArmBatch) -> None:
    if (arm.requests, arm.failures) != (truth.requests, truth.failures):
        told = f"{rollout.rollout_id} counts {arm.failures} of {arm.requests}, true is {truth}"
        raise Broken(Invariant.COUNTED_BY_ASSIGNMENT, told)
