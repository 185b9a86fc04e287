"""The invariants, and the truth that they are checked against: what really happened, whoever believes what."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from tidegate.core.errors import InvalidInput
from tidegate.deployer import events as core
from tidegate.deployer.rollout import decide
from tidegate.deployer.state import (
    TERMINAL_PHASES,
    WEIGHT_TOTAL,
    Decision,
    ModelState,
    Number,
    Phase,
    Rollout,
    Route,
    StepRecord,
)
from tidegate.deployer.xds.checks import check_table
from tidegate.monitor.batches import Key, Slice, is_success
from tidegate.monitor.judges.replay import replay
from tidegate.monitor.judges.values import Batch
from tidegate.monitor.judges.values import Decision as Judgement
from tidegate.monitor.rollouts import Rollout as Watched
from tidegate.registry import versioning
from tidegate.registry.versioning import DecisionInput, Fingerprint, VersionNumberDecision
from tidegate.simulation.bus import Place
from tidegate.simulation.plan import Quality
from tidegate.simulation.world import Broken, World
from tidegate.v1.policy_pb2 import Policy, StrategyPolicy
from tidegate.v1.rollout_events_pb2 import RouteTable

DECIDED_AGAIN_EVERY: Final = 7
HEARTBEAT_LONGEST_S: Final = 30.0
HOPELESS: Final = 0.85


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """One decision of a transaction; ``place`` and ``offset`` say which input it answers, if Kafka brought it."""

    model: str
    before: ModelState
    event: core.Event
    decision: Decision
    place: Place | None
    offset: int


class AtProxy(Protocol):
    """What is looked at of a proxy."""

    name: str

    @property
    def is_beyond_lease(self) -> bool:
        """Say whether the deployer has stopped to wait for it."""

    @property
    def held(self) -> dict[str, tuple[int, int]]:
        """The route of each model that it has."""


@dataclass(kw_only=True, slots=True)
class Life:
    """What is known of one rollout."""

    model: str
    candidate: Number
    asked_by_person: bool
    approval_wanted: bool
    phases: list[Phase] = field(default_factory=list)
    breached_weight: int | None = None
    heard_s: float = 0.0
    evident: set[tuple[int, int]] = field(default_factory=set)

    @property
    def endings(self) -> list[Phase]:
        """Return the terminal phases that it went through."""
        return [phase for phase in self.phases if phase in TERMINAL_PHASES]


@dataclass(kw_only=True, slots=True)
class Tally:
    """Requests of one arm on one route, by assignment."""

    requests: int = 0
    failures: int = 0


class Checker:
    """Sees everything, changes nothing."""

    def __init__(self, world: World, policies: dict[str, Policy]) -> None:
        self.world = world
        self.policies = policies
        self.proxies: list[AtProxy] = []
        self.states: dict[str, ModelState] = {}
        self.lives: dict[str, Life] = {}
        self.approved: set[tuple[str, str]] = set()
        self.died_s: dict[str, float] = {}
        self._stopped_s: dict[str, float] = {}
        self._answered_s: dict[tuple[str, str], float] = {}
        self.ever_ready: set[str] = set()
        self.requests = 0
        self.excused = 0
        self._qualities: dict[tuple[str, str], Quality] = {}
        self._fingerprints: dict[tuple[str, Fingerprint], str] = {}
        self._wanted_approval: set[tuple[str, Number]] = set()
        self._offsets: dict[Place, int] = {}
        self._tables: dict[str, tuple[int, int]] = {}
        self._acknowledged: dict[str, tuple[tuple[int, int], float]] = {}
        self._attempts: dict[str, int] = {}
        self._tallies: dict[tuple[str, int, int, str], Tally] = {}
        self._counted: set[tuple[str, str]] = set()
        self._decisions = 0

    # Registry and validator.

    def quality(self, model: str, version: str) -> Quality:
        """Return the truth about a version."""
        return self._qualities[model, version]

    def on_registered(
        self, model: str, version: str, given: DecisionInput, decision: VersionNumberDecision, quality: Quality
    ) -> None:
        """Check a new number."""
        if (model, version) in self._qualities:
            raise Broken("version numbers are unique", f"{model}@{version} was given twice")
        twin = self._fingerprints.get((model, given.fingerprint))
        if twin is not None:
            raise Broken("version numbers are unique", f"{model}@{version} is the same training as {twin}")
        again = versioning.decide(versioning.input_from_json(versioning.to_json(given)))
        if again != decision:
            raise Broken("any decision can be made again", f"{version} would be {again.version} now")
        self._qualities[model, version] = quality
        self._fingerprints[model, given.fingerprint] = version
        self.world.count(f"change: {decision.change}")

    def on_approved(self, model: str, version: str) -> None:
        """Remember that a person consented."""
        self.approved.add((model, version))

    # Model servers.

    def on_spec(self, server_id: str, runs: str, asked: str) -> None:
        """Check that a version's artifact is what it was."""
        if runs != asked:
            raise Broken("artifacts are immutable", f"{server_id} runs {runs}, asked for is {asked}")

    def on_start_asked(self, who: str, server_id: str) -> None:
        """Check that a committed state wants the server."""
        if not self._is_wanted(server_id):
            raise Broken("only what is committed has an effect", f"{who} starts {server_id}, which nothing wants")

    def on_stop_asked(self, who: str, server_id: str) -> None:
        """Check that no committed state wants the server."""
        if self._is_wanted(server_id):
            raise Broken("only what is committed has an effect", f"{who} stops {server_id}, which is wanted")

    def _is_wanted(self, server_id: str) -> bool:
        model, _, version = server_id.partition("@")
        state = self.states.get(model)
        return state is not None and version in {str(number) for number in state.wanted_servers()}

    def on_ready(self, server_id: str) -> None:
        """Remember that a server came up."""
        self.ever_ready.add(server_id)

    def on_died(self, server_id: str) -> None:
        """Excuse requests to a server that died by itself, until it answers the same proxy again."""
        self.died_s[server_id] = self.world.now_s

    def on_stopped(self, server_id: str, *, was_answering: bool) -> None:
        """Blame whoever stops a server that answers."""
        if was_answering:
            self._stopped_s[server_id] = self.world.now_s

    # Requests.

    def on_attempt(self, key: Key, request_id: str, arm: str, status: int) -> None:
        """Remember what really happened to a request at the arm that it was assigned to."""
        self._attempts[request_id] = status
        tally = self._tallies.setdefault((key.model, key.epoch, key.revision, arm), Tally())
        tally.requests += 1
        tally.failures += not is_success(status)

    def on_answer(self, proxy: AtProxy, model: str, asked: str, answered_by: str, *, is_nobody: bool) -> None:
        """Check that a client's request found a server."""
        self.requests += 1
        server_id = f"{model}@{answered_by}"
        if not is_nobody:
            self._answered_s[proxy.name, server_id] = self.world.now_s
            return
        died_s = self.died_s.get(server_id, 0.0)
        last_s = max(self._answered_s.get((proxy.name, server_id), 0.0), self._stopped_s.get(server_id, 0.0))
        if died_s > last_s or proxy.is_beyond_lease:
            self.excused += 1
            self.world.count("request: failed, its only server had died or its proxy was beyond its lease")
            return
        raise Broken(
            "no request fails by a shift, a rollback, a removal or the death of a Tidegate process",
            f"{proxy.name} sent a request for {model} (assigned to {asked}) to {server_id}, where nobody answers",
        )

    # Monitor.

    def on_slice(self, part: Slice) -> None:
        """Check that each request counts for the arm that it was assigned to, by what that arm did."""
        for row in part.rows:
            status = self._attempts.pop(row.request_id, None)
            if status is not None and is_success(status) != is_success(row.status):
                told = f"{row.request_id} of {row.assigned_arm} ended with {status}, counted is {row.status}"
                raise Broken("evidence is counted by assignment", told)

    def on_judged(self, rollout: Watched, judgement: Judgement) -> None:
        """Check that findings can be computed again, and that evidence is no guess."""
        findings = [*judgement.breaches] + ([judgement.reached] if judgement.reached is not None else [])
        for finding in findings:
            if replay(finding.inputs_json) != finding.evidence.e_value:
                raise Broken("any decision can be made again", f"{finding.evidence} from {finding.inputs_json}")
        reached, alpha = judgement.reached, rollout.judge.rules.alpha
        if reached is not None and reached.evidence.e_value < 1.0 / alpha:
            raise Broken("no evidence is unknown", f"{rollout.rollout_id} reached {reached.evidence}")

    def on_counted(self, judged: list[tuple[Watched, Batch]], event_id: str) -> None:
        """Check that a batch counts once."""
        for rollout, _ in judged:
            if (rollout.rollout_id, event_id) in self._counted:
                raise Broken("each batch counts once", f"{event_id} counted twice for {rollout.rollout_id}")
            self._counted.add((rollout.rollout_id, event_id))

    # Proxies.

    def on_route_at_proxy(self, proxy: str, model: str, key: tuple[int, int]) -> None:
        """Check that a proxy has only what was committed."""
        if key > self._tables.get(model, (0, 0)):
            raise Broken("only what is committed has an effect", f"{proxy} has {model} {key[0]}.{key[1]}")

    # Deployer.

    def on_loaded(self, model: str, state: ModelState) -> None:
        """Check that the next owner goes on from what the last one committed."""
        known = self.states.get(model)
        if known is not None and without_heartbeat(known) != without_heartbeat(state):
            raise Broken(
                "a decision's state is committed with it",
                f"{model}: the next owner loads route {state.route.epoch}.{state.route.revision} sequence "
                f"{state.sequence}, committed was {known.route.epoch}.{known.route.revision} {known.sequence}",
            )
        self.states[model] = state

    def on_committed(self, who: str, decided: list[Decided], tables: dict[str, RouteTable]) -> None:
        """Check a transaction, decision by decision."""
        for one in decided:
            self._tell(who, one)
            self._check_order(one)
            self._check_again(one)
            self._note(one)
            self._check_breach(one)
            for step in one.decision.steps:
                self._check_step(one, step)
            self._check_opened(one)
            self._check_silence(one)
            if one.decision.state.route is not one.before.route:
                self._check_route(one.model, one.decision.state)
            self._check_weight(one.model, one.decision.state)
            self.states[one.model] = one.decision.state
        for table in tables.values():
            self._check_table(table)

    def _tell(self, who: str, one: Decided) -> None:
        world = self.world
        decision = one.decision
        if world.lines is None:
            return
        if isinstance(one.event, core.Ticked | core.HeartbeatSeen) and not decision.steps:
            return
        route = f" | {told_route(decision.state.route)}" if decision.route_changed else ""
        world.say(who, "%s %s: %s%s", one.model, type(one.event).__name__, decision.reason, route)

    def _check_order(self, one: Decided) -> None:
        known = self.states.get(one.model)
        if known is not None and without_heartbeat(known) != without_heartbeat(one.before):
            raise Broken("one owner decides", f"{one.model}: a decision was made from a state that is not the last one")
        if one.place is not None:
            if one.offset <= self._offsets.get(one.place, -1):
                raise Broken("each input is decided once", f"{one.place.topic}/{one.place.partition}/{one.offset}")
            self._offsets[one.place] = one.offset

    def _check_again(self, one: Decided) -> None:
        self._decisions += 1
        if self._decisions % DECIDED_AGAIN_EVERY == 0 and decide(one.before, one.event) != one.decision:
            raise Broken("any decision can be made again", f"{one.event}")

    def _note(self, one: Decided) -> None:
        before, event, state = one.before, one.event, one.decision.state
        key = (before.route.epoch, before.route.revision)
        running = before.rollout
        life = self.lives.get(running.rollout_id) if running is not None else None
        match event:
            case core.RouteAcknowledged() if (event.epoch, event.revision) == key:
                self._check_acknowledged(one.model, key)
                if self._acknowledged.get(one.model, ((0, 0), 0.0))[0] != key:
                    self._acknowledged[one.model] = (key, event.time_s)
            case core.EvidenceReached() if life is not None and event.rollout_id == running_id(running):
                life.evident.add((event.epoch, event.revision))
            case core.HeartbeatSeen() if life is not None and event.rollout_id == running_id(running):
                life.heard_s = max(life.heard_s, event.time_s)
            case core.CommandGiven(verb=core.Verb.APPROVE) if (
                running is not None
                and running.phase is Phase.AWAITING_APPROVAL
                and event.rollout_id == running.rollout_id
                and event.request_id not in before.request_ids
            ):
                self.approved.add((one.model, str(running.candidate)))
            case core.VersionBlessed():
                number = event.blessed.number
                if approval_wanted(self.policies[one.model], number, before.stable):
                    self._wanted_approval.add((one.model, number))
        if life is not None and isinstance(event, core.RouteAcknowledged | core.TakenOver):
            life.heard_s = max(life.heard_s, event.time_s)
        self.world.count(f"decided: {type(event).__name__}")
        if isinstance(event, core.CommandGiven):
            ignored = one.decision.reason.startswith("ignored")
            self.world.count(f"command: {event.verb} {'ignored' if ignored else 'obeyed'}")
        del state

    def _check_acknowledged(self, model: str, key: tuple[int, int]) -> None:
        for proxy in self.proxies:
            held = proxy.held.get(model)
            if held is not None and held < key and not proxy.is_beyond_lease:
                raise Broken(
                    "a route counts when all leased proxies have it",
                    f"{model} {key[0]}.{key[1]} counts as acknowledged, {proxy.name} has {held[0]}.{held[1]}",
                )

    def _check_breach(self, one: Decided) -> None:
        before, event, after = one.before, one.event, one.decision.state
        rollout = before.rollout
        if not isinstance(event, core.MetricBreached) or rollout is None or rollout.rollout_id != event.rollout_id:
            return
        life = self.lives[rollout.rollout_id]
        if life.breached_weight is None:
            life.breached_weight = weight_of(before.route, rollout.candidate)
        if rollout.breached_guard or rollout.phase is Phase.ROLLING_BACK:
            if one.decision.steps:
                raise Broken("a breach counts once", f"{rollout.rollout_id}: {one.decision.reason}")
            return
        self.world.count(f"breach: while {rollout.phase}")
        policy = self.policies[one.model]
        goes_back = (life.asked_by_person or policy.rollout.on_breach == "rollback") and rollout.stable is not None
        running = after.rollout if running_id(after.rollout) == rollout.rollout_id else None
        if goes_back and (weight_of(after.route, rollout.candidate) or (running and running.phase != "ROLLING_BACK")):
            raise Broken("a breach sends all traffic back in the same decision", f"{told_route(after.route)}")
        if not goes_back and running is not None and running.phase is not Phase.PAUSED:
            raise Broken("a breach stops the rollout", f"{rollout.rollout_id} is {running.phase}")

    def _check_weight(self, model: str, state: ModelState) -> None:
        rollout = state.rollout
        life = self.lives.get(rollout.rollout_id) if rollout is not None else None
        if rollout is None or life is None or life.breached_weight is None:
            return
        weight = weight_of(state.route, rollout.candidate)
        if weight > life.breached_weight:
            told = f"{model}: {rollout.candidate} had {life.breached_weight}, has {weight} of {WEIGHT_TOTAL}"
            raise Broken("after a breach nothing gives the arm more traffic", told)
        life.breached_weight = weight

    def _check_step(self, one: Decided, step: StepRecord) -> None:
        rollout = step.rollout
        life = self.lives.get(rollout.rollout_id)
        if life is None:
            is_switch = isinstance(one.event, core.CommandGiven) and one.event.verb in {"START", "ROLLBACK"}
            asked = is_switch and one.before.rollout is None
            life = Life(
                model=one.model,
                candidate=rollout.candidate,
                asked_by_person=asked,
                approval_wanted=not asked
                and approval_wanted(self.policies[one.model], rollout.candidate, rollout.stable),
            )
            self.lives[rollout.rollout_id] = life
            self.world.count(f"strategy: {rollout.strategy}{' by a person' if asked else ''}")
        if life.endings:
            raise Broken("a rollout ends once", f"{rollout.rollout_id} was {life.endings[0]}, then {rollout.phase}")
        life.phases.append(rollout.phase)
        life.heard_s = max(life.heard_s, step.time_s)
        self.world.count(f"phase: {rollout.phase}")
        if rollout.phase in {Phase.STEPPING, Phase.SETTLING, Phase.PROMOTED}:
            self._check_consent(one.model, life, rollout)
        self._check_earned(one, rollout, life)

    def _check_consent(self, model: str, life: Life, rollout: Rollout) -> None:
        wanted = life.approval_wanted
        if life.asked_by_person:
            wanted = (model, rollout.candidate) in self._wanted_approval
        if wanted and (model, str(rollout.candidate)) not in self.approved:
            raise Broken("nothing goes live without the approval that it wants", f"{model}@{rollout.candidate}")

    def _check_earned(self, one: Decided, rollout: Rollout, life: Life) -> None:
        old = one.before.rollout
        if old is None or old.rollout_id != rollout.rollout_id or rollout.step_index <= old.step_index:
            return
        if isinstance(one.event, core.CommandGiven) and one.event.verb is core.Verb.PROMOTE:
            self.world.count("step: by a person")
            return
        key = (one.before.route.epoch, one.before.route.revision)
        acknowledged, since_s = self._acknowledged.get(one.model, ((0, 0), 0.0))
        if key not in life.evident:
            raise Broken("each step is earned by evidence of its route", f"{rollout.rollout_id} at {key}")
        if acknowledged != key:
            raise Broken("each step waits for the proxies", f"{rollout.rollout_id} at {key}")
        if one.event.time_s - since_s < rollout.bake_s:
            raise Broken("each step is baked", f"{rollout.rollout_id}: {one.event.time_s - since_s:.3f} s")
        tally = self._tallies.get((one.model, *key, str(rollout.candidate)), Tally())
        if tally.requests == 0:
            raise Broken("no evidence is unknown", f"{rollout.rollout_id} had no request at {key}")
        stable_rate = 0.0 if rollout.stable is None else self.quality(one.model, str(rollout.stable)).error_rate
        if self.quality(one.model, str(rollout.candidate)).error_rate - stable_rate >= HOPELESS:
            raise Broken("no bad candidate earns a step", f"{rollout.rollout_id}: {tally}")
        self.world.count("step: earned")

    def _check_opened(self, one: Decided) -> None:
        rollout, before = one.decision.state.rollout, one.before
        if rollout is None or rollout.rollout_id == running_id(before.rollout):
            return
        if self.lives[rollout.rollout_id].asked_by_person:
            return
        stable = one.decision.state.stable
        if stable is not None and rollout.candidate <= stable:
            raise Broken("lower versions never start by themselves", f"{rollout.candidate}, stable is {stable}")
        if self.policies[one.model].mode == "observe":
            raise Broken("observe never shifts", f"{rollout.rollout_id} was opened")

    def _check_silence(self, one: Decided) -> None:
        rollout = one.decision.state.rollout
        if not isinstance(one.event, core.Ticked) or rollout is None or rollout.step_acknowledged_s is None:
            return
        heard_s = self.lives[rollout.rollout_id].heard_s
        silence_s = one.event.time_s - heard_s
        if rollout.phase in {Phase.STEPPING, Phase.SETTLING} and silence_s >= HEARTBEAT_LONGEST_S:
            raise Broken("a silent monitor is not no traffic", f"{rollout.rollout_id}: {silence_s:.0f} s of silence")

    def _check_route(self, model: str, state: ModelState) -> None:
        for line in state.route.lines:
            total = sum(arm.weight_millionths for arm in line.arms)
            if total != WEIGHT_TOTAL:
                raise Broken("weights sum to the total", f"{model} line {line.major}: {total}")
        for number in state.route.versions():
            server_id = f"{model}@{number}"
            if not self.quality(model, str(number)).is_valid:
                raise Broken("a route names only blessed versions", f"{server_id} failed its validation")
            if server_id not in self.ever_ready:
                raise Broken("a route names only ready versions", f"{server_id} was never ready")

    def _check_table(self, table: RouteTable) -> None:
        key = (table.epoch, table.revision)
        if key <= self._tables.get(table.model, (0, 0)):
            raise Broken("routes only go forward", f"{table.model} {key[0]}.{key[1]} after {self._tables[table.model]}")
        self._tables[table.model] = key
        try:
            check_table(table)
        except InvalidInput as error:
            raise Broken("every committed route is legal", str(error)) from error


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


def running_id(rollout: Rollout | None) -> str:
    """Return the id of a rollout, "" for none."""
    return "" if rollout is None else rollout.rollout_id


def weight_of(route: Route, number: Number) -> int:
    """Return the share of a version, over all lines."""
    return sum(arm.weight_millionths for line in route.lines for arm in line.arms if arm.number == number)


def without_heartbeat(state: ModelState) -> ModelState:
    """Return the state without what need not survive a crash."""
    if state.rollout is None:
        return state
    return replace(state, rollout=replace(state.rollout, heartbeat_s=0.0))


def told_route(route: Route) -> str:
    """Return a route for people."""
    lines = [
        f"{line.major}: " + " + ".join(f"{arm.number} {arm.weight_millionths / 10_000:g} %" for arm in line.arms)
        for line in route.lines
    ]
    return f"route {route.epoch}.{route.revision} {'; '.join(lines) or 'nothing'}"
