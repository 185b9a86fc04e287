"""How rollouts move: opened, earned, baked, held, settled, and ended once."""

from __future__ import annotations

from typing import Final

from tidegate.deployer import events as core
from tidegate.deployer.state import Number, Phase, Rollout, StepRecord
from tidegate.simulation.checks.facts import Decided, Facts, Life, Tally, key_of, running_id
from tidegate.simulation.invariants import Invariant
from tidegate.simulation.world import Broken
from tidegate.v1.policy_pb2 import Policy, StrategyPolicy

HEARTBEAT_LONGEST_S: Final = 30.0
HOLD_LONGEST_S: Final = 600.0
HOPELESS: Final = 0.85
BACK: Final = frozenset({Phase.ABORTED, Phase.ROLLING_BACK, Phase.ROLLED_BACK})
LIVE: Final = frozenset({Phase.STEPPING, Phase.SETTLING, Phase.PROMOTED})


class StepChecks:
    """Sees the steps of each decision, and what time must have brought."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._wanted_approval: set[tuple[str, Number]] = set()

    def check(self, one: Decided) -> None:
        """Check one decision."""
        if isinstance(one.event, core.VersionBlessed):
            number = one.event.blessed.number
            if approval_wanted(self._facts.policies[one.model], number, one.before.stable):
                self._wanted_approval.add((one.model, number))
        for step in one.decision.steps:
            self._check_step(one, step)
        self._check_opened(one)
        self._check_waiting(one)
        self._check_silence(one)

    def _check_step(self, one: Decided, step: StepRecord) -> None:
        facts, rollout = self._facts, step.rollout
        life = facts.lives.get(rollout.rollout_id) or self._begin(one, rollout)
        if life.endings:
            raise Broken(Invariant.ENDS_ONCE, f"{rollout.rollout_id} was {life.endings[0]}, then {rollout.phase}")
        life.phases.append(rollout.phase)
        if rollout.phase is not Phase.HOLDING:
            life.heard_s = max(life.heard_s, step.time_s)
        facts.world.count(f"phase: {rollout.phase}")
        if rollout.phase in LIVE:
            self._check_consent(one.model, life, rollout)
        self._check_earned(one, rollout, life)
        if rollout.phase is Phase.PROMOTED:
            self._check_settled(one, rollout, life)
        facts.on_phase(rollout.phase)

    def _begin(self, one: Decided, rollout: Rollout) -> Life:
        verb = one.event.verb if isinstance(one.event, core.CommandGiven) and one.before.rollout is None else None
        asked = verb in {core.Verb.START, core.Verb.ROLLBACK, core.Verb.RESTORE}
        is_switch = verb in {core.Verb.ROLLBACK, core.Verb.RESTORE}
        policy = self._facts.policies[one.model]
        life = Life(
            model=one.model,
            candidate=rollout.candidate,
            asked_by_person=asked,
            is_switch=is_switch,
            approval_wanted=not is_switch and approval_wanted(policy, rollout.candidate, rollout.stable),
        )
        self._facts.lives[rollout.rollout_id] = life
        how = " by a person" if is_switch else " again, by a person" if asked else ""
        self._facts.world.count(f"strategy: {rollout.strategy}{how}")
        return life

    def _check_consent(self, model: str, life: Life, rollout: Rollout) -> None:
        wanted = life.approval_wanted
        if life.asked_by_person:
            wanted = wanted or (model, rollout.candidate) in self._wanted_approval
        if wanted and (model, str(rollout.candidate)) not in self._facts.approved:
            raise Broken(Invariant.NOTHING_WITHOUT_APPROVAL, f"{model}@{rollout.candidate}")

    def _check_earned(self, one: Decided, rollout: Rollout, life: Life) -> None:
        facts, old = self._facts, one.before.rollout
        if old is None or old.rollout_id != rollout.rollout_id or rollout.step_index <= old.step_index:
            return
        if isinstance(one.event, core.CommandGiven) and one.event.verb is core.Verb.PROMOTE:
            facts.world.count("step: by a person")
            return
        key = key_of(one.before.route)
        since_s = facts.acknowledged_since(one.model, key)
        if key not in life.evident:
            raise Broken(Invariant.STEPS_ARE_EARNED, f"{rollout.rollout_id} at {key}")
        if since_s is None:
            raise Broken(Invariant.STEPS_WAIT_FOR_PROXIES, f"{rollout.rollout_id} at {key}")
        if one.event.time_s - since_s < rollout.bake_s:
            raise Broken(Invariant.STEPS_ARE_BAKED, f"{rollout.rollout_id}: {one.event.time_s - since_s:.3f} s")
        tally = facts.tallies.get((one.model, *key, str(rollout.candidate)), Tally())
        if tally.requests == 0:
            raise Broken(Invariant.NOTHING_IS_UNKNOWN, f"{rollout.rollout_id} had no request at {key}")
        stable_rate = 0.0 if rollout.stable is None else facts.quality(one.model, str(rollout.stable)).error_rate
        if facts.quality(one.model, str(rollout.candidate)).error_rate - stable_rate >= HOPELESS:
            raise Broken(Invariant.NO_BAD_STEP, f"{rollout.rollout_id}: {tally}")
        facts.world.count("step: earned")

    def _check_settled(self, one: Decided, rollout: Rollout, life: Life) -> None:
        """Check that only a person shortens the rollback window, and that it began when all proxies had the route."""
        if isinstance(one.event, core.CommandGiven) and one.event.verb is core.Verb.PROMOTE:
            self._facts.world.count("promoted: by a person")
            return
        settle_s = 0.0 if life.is_switch else self._facts.policies[one.model].rollout.settle_s
        since_s = self._facts.acknowledged_since(one.model, key_of(one.before.route))
        if since_s is None:
            raise Broken(Invariant.SETTLES_FIRST, f"{rollout.rollout_id}: not every proxy has its route")
        if one.event.time_s - since_s < settle_s:
            told = f"{rollout.rollout_id}: after {one.event.time_s - since_s:.3f} s of {settle_s:g} s"
            raise Broken(Invariant.SETTLES_FIRST, told)
        self._facts.world.count("promoted: its rollback window closed")

    def _check_opened(self, one: Decided) -> None:
        rollout, before = one.decision.state.rollout, one.before
        if rollout is None or rollout.rollout_id == running_id(before.rollout):
            return
        life = self._facts.lives[rollout.rollout_id]
        stable = one.decision.state.stable
        if stable is not None and rollout.candidate <= stable and not life.asked_by_person:
            raise Broken(Invariant.NO_LOWER_VERSION, f"{rollout.candidate}, stable is {stable}")
        if self._facts.policies[one.model].mode == "observe" and not life.is_switch:
            raise Broken(Invariant.OBSERVE_NEVER_SHIFTS, f"{rollout.rollout_id} was opened")

    def _check_waiting(self, one: Decided) -> None:
        event, running = one.event, one.before.rollout
        if running is None:
            return
        is_full = isinstance(event, core.ServerChanged) and event.number == running.candidate and bool(event.waiting)
        if is_full:
            self._facts.world.count(f"waiting: for a server in {running.phase}")
        elif not (isinstance(event, core.Ticked) and running.waiting):
            return
        ended = [step.rollout for step in one.decision.steps if step.rollout.phase in BACK]
        if ended:
            raise Broken(Invariant.WAITING_IS_NO_END, f"{running.rollout_id}: {one.decision.reason}")

    def _check_silence(self, one: Decided) -> None:
        rollout = one.decision.state.rollout
        since_s = self._facts.acknowledged_since(one.model, key_of(one.before.route))
        if not isinstance(one.event, core.Ticked) or rollout is None or since_s is None:
            return
        silence_s = one.event.time_s - max(self._facts.lives[rollout.rollout_id].heard_s, since_s)
        told = f"{rollout.rollout_id} is {rollout.phase} after {silence_s:.0f} s of silence"
        if rollout.phase in {Phase.STEPPING, Phase.SETTLING} and silence_s >= HEARTBEAT_LONGEST_S:
            raise Broken(Invariant.SILENCE_IS_NOT_NO_TRAFFIC, told)
        # A first version stays in service: there is nothing to go back to.
        if rollout.phase is Phase.HOLDING and silence_s >= HOLD_LONGEST_S and rollout.stable is not None:
            raise Broken(Invariant.SILENCE_ENDS_IT, told)
        held = one.before.rollout
        was_held = held is not None and held.phase is Phase.HOLDING
        if was_held and rollout.phase is Phase.ROLLING_BACK and "no heartbeat" in one.decision.reason:
            self._facts.world.count("hold: ended by its limit")


def approval_wanted(policy: Policy, candidate: Number, stable: Number | None) -> bool:
    """Say whether the policy wants a person's consent, in words of its own."""
    rollout, approvals = policy.rollout, policy.registration.approvals
    strategy: StrategyPolicy
    if stable is None:
        return bool(rollout.on_first.approval)
    if candidate.major != stable.major:
        strategy, count = rollout.on_major, approvals.major
    elif candidate.minor != stable.minor:
        strategy, count = rollout.on_minor, approvals.minor
    else:
        strategy, count = rollout.on_pipeline, approvals.pipeline
    return bool(strategy.approval) or count > 0
