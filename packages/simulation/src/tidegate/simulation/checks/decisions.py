"""The deployer's transactions: order, routes, breaches; steps and commands have files of their own."""

from __future__ import annotations

from typing import Final

from tidegate.contracts.names import format_version
from tidegate.core.errors import InvalidInput
from tidegate.deployer import events as core
from tidegate.deployer.rollout import decide
from tidegate.deployer.state import WEIGHT_TOTAL, ModelState, Phase
from tidegate.deployer.xds.checks import check_table
from tidegate.simulation.bus import Place
from tidegate.simulation.checks.commands import CommandChecks
from tidegate.simulation.checks.facts import (
    NO_ROUTE,
    Decided,
    Facts,
    RouteKey,
    key_of,
    running_id,
    told_route,
    weight_of,
    without_heartbeat,
)
from tidegate.simulation.checks.steps import StepChecks
from tidegate.simulation.invariants import Invariant
from tidegate.simulation.world import Broken
from tidegate.v1.rollout_events_pb2 import RouteTable

DECIDED_AGAIN_EVERY: Final = 7


class DecisionChecks:
    """Sees each committed transaction, decision by decision."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._steps = StepChecks(facts)
        self._commands = CommandChecks(facts)
        self._offsets: dict[Place, int] = {}
        self._decisions = 0

    def on_loaded(self, model: str, state: ModelState) -> None:
        """Check that the next owner goes on from what the last one committed."""
        known = self._facts.states.get(model)
        if known is not None and without_heartbeat(known) != without_heartbeat(state):
            raise Broken(
                Invariant.STATE_IS_COMMITTED,
                f"{model}: the next owner loads route {state.route.epoch}.{state.route.revision} sequence "
                f"{state.sequence}, committed was {known.route.epoch}.{known.route.revision} {known.sequence}",
            )
        self._facts.states[model] = state

    def on_committed(self, who: str, decided: list[Decided], tables: dict[str, RouteTable]) -> None:
        """Check a transaction."""
        for one in decided:
            self._tell(who, one)
            self._check_order(one)
            self._check_again(one)
            self._note(one)
            self._check_breach(one)
            self._steps.check(one)
            self._commands.check(one)
            if one.decision.state.route is not one.before.route:
                self._check_route(one.model, one.decision.state)
            self._check_weight(one.model, one.decision.state)
            self._facts.states[one.model] = one.decision.state
        for table in tables.values():
            self._check_table(table)

    def on_route_at_proxy(self, proxy: str, model: str, key: RouteKey) -> None:
        """Check that a proxy has only what was committed."""
        if key > self._facts.tables.get(model, NO_ROUTE):
            raise Broken(Invariant.ONLY_THE_COMMITTED_HAS_AN_EFFECT, f"{proxy} has {model} {key[0]}.{key[1]}")

    def _tell(self, who: str, one: Decided) -> None:
        world = self._facts.world
        decision = one.decision
        if world.lines is None:
            return
        if isinstance(one.event, core.Ticked | core.HeartbeatSeen) and not decision.steps:
            return
        if isinstance(one.event, core.ServerChanged) and decision.state == one.before:
            return
        route = f" | {told_route(decision.state.route)}" if decision.route_changed else ""
        world.say(who, "%s %s: %s%s", one.model, type(one.event).__name__, decision.reason, route)

    def _check_order(self, one: Decided) -> None:
        known = self._facts.states.get(one.model)
        if known is not None and without_heartbeat(known) != without_heartbeat(one.before):
            told = f"{one.model}: a decision was made from a state that is not the last one"
            raise Broken(Invariant.ONE_OWNER_DECIDES, told)
        if one.place is not None:
            if one.offset <= self._offsets.get(one.place, -1):
                told = f"{one.place.topic}/{one.place.partition}/{one.offset}"
                raise Broken(Invariant.INPUTS_ARE_DECIDED_ONCE, told)
            self._offsets[one.place] = one.offset

    def _check_again(self, one: Decided) -> None:
        self._decisions += 1
        if self._decisions % DECIDED_AGAIN_EVERY == 0 and decide(one.before, one.event) != one.decision:
            raise Broken(Invariant.DECIDED_AGAIN, f"{one.event}")

    def _note(self, one: Decided) -> None:
        facts, event = self._facts, one.event
        facts.world.count(f"decided: {type(event).__name__}")
        key = key_of(one.before.route)
        self._note_retirement(one)
        running = one.before.rollout
        life = facts.lives.get(running_id(running))
        match event:
            case core.RouteAcknowledged() if (event.epoch, event.revision) == key:
                self._check_acknowledged(one.model, key)
                if facts.acknowledged_since(one.model, key) is None:
                    facts.acknowledged[one.model] = (key, event.time_s)
            case core.EvidenceReached() if life is not None and event.rollout_id == running_id(running):
                life.evident.add((event.epoch, event.revision))
            case core.HeartbeatSeen() if life is not None and event.rollout_id == running_id(running):
                life.heard_s = max(life.heard_s, event.time_s)
            case core.CommandGiven(verb=core.Verb.APPROVE) if (
                running is not None
                and running.phase is Phase.AWAITING_APPROVAL
                and event.rollout_id == running.rollout_id
                and event.request_id not in one.before.request_ids
            ):
                facts.approved.add((one.model, str(running.candidate)))
            case core.TakenOver() if life is not None:
                life.heard_s = max(life.heard_s, event.time_s)

    def _note_retirement(self, one: Decided) -> None:
        change = one.decision.retirement
        if change is None:
            return
        what = (one.model, "" if change.number is None else str(change.number))
        if change.is_retired:
            self._facts.retired[what] = (change.route_epoch, change.route_revision)
        else:
            self._facts.retired.pop(what, None)

    def _check_acknowledged(self, model: str, key: RouteKey) -> None:
        for proxy in self._facts.proxies:
            held = proxy.held.get(model)
            if held is not None and held < key and not proxy.is_beyond_lease:
                raise Broken(
                    Invariant.ALL_LEASED_PROXIES_HAVE_IT,
                    f"{model} {key[0]}.{key[1]} counts as acknowledged, {proxy.name} has {held[0]}.{held[1]}",
                )

    def _check_breach(self, one: Decided) -> None:
        before, event, after = one.before, one.event, one.decision.state
        rollout = before.rollout
        if not isinstance(event, core.MetricBreached) or rollout is None or rollout.rollout_id != event.rollout_id:
            return
        life = self._facts.lives[rollout.rollout_id]
        if life.breached_weight is None:
            life.breached_weight = weight_of(before.route, rollout.candidate)
        if rollout.breached_guard or rollout.phase is Phase.ROLLING_BACK:
            if one.decision.steps:
                raise Broken(Invariant.BREACH_COUNTS_ONCE, f"{rollout.rollout_id}: {one.decision.reason}")
            return
        self._facts.world.count(f"breach: while {rollout.phase}")
        policy = self._facts.policies[one.model]
        goes_back = (life.is_switch or policy.rollout.on_breach == "rollback") and rollout.stable is not None
        running = after.rollout if running_id(after.rollout) == rollout.rollout_id else None
        if goes_back and (weight_of(after.route, rollout.candidate) or (running and running.phase != "ROLLING_BACK")):
            raise Broken(Invariant.BREACH_SENDS_BACK, f"{told_route(after.route)}")
        if not goes_back and running is not None and running.phase is not Phase.PAUSED:
            raise Broken(Invariant.BREACH_STOPS, f"{rollout.rollout_id} is {running.phase}")

    def _check_weight(self, model: str, state: ModelState) -> None:
        rollout = state.rollout
        life = self._facts.lives.get(running_id(rollout))
        if rollout is None or life is None or life.breached_weight is None:
            return
        weight = weight_of(state.route, rollout.candidate)
        if weight > life.breached_weight:
            told = f"{model}: {rollout.candidate} had {life.breached_weight}, has {weight} of {WEIGHT_TOTAL}"
            raise Broken(Invariant.NO_MORE_AFTER_A_BREACH, told)
        life.breached_weight = weight

    def _check_route(self, model: str, state: ModelState) -> None:
        for line in state.route.lines:
            total = sum(arm.weight_millionths for arm in line.arms)
            if total != WEIGHT_TOTAL:
                raise Broken(Invariant.WEIGHTS_SUM_UP, f"{model} line {line.major}: {total}")
        for number in state.route.versions():
            server_id = f"{model}@{number}"
            if self._facts.is_retired(model, str(number), at_proxies=False):
                raise Broken(Invariant.RETIRED_GETS_NOTHING, f"{told_route(state.route)} names {server_id}")
            if not self._facts.quality(model, str(number)).is_valid:
                raise Broken(Invariant.ONLY_BLESSED_VERSIONS, f"{server_id} failed its validation")
            if server_id not in self._facts.ever_ready:
                raise Broken(Invariant.ONLY_READY_VERSIONS, f"{server_id} was never ready")

    def _check_table(self, table: RouteTable) -> None:
        facts = self._facts
        key = (table.epoch, table.revision)
        known = facts.tables.get(table.model, NO_ROUTE)
        if key <= known:
            raise Broken(Invariant.ROUTES_GO_FORWARD, f"{table.model} {key[0]}.{key[1]} after {known}")
        facts.tables[table.model] = key
        facts.main_lines[table.model, key] = {
            format_version(arm.version): arm.weight_millionths for line in table.lines[:1] for arm in line.arms
        }
        try:
            check_table(table)
        except InvalidInput as error:
            raise Broken(Invariant.ROUTES_ARE_LEGAL, str(error)) from error
