"""Whatever happens to a model, in whatever order, the rollout core keeps its invariants."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from more import repeats

from tidegate.deployer.events import (
    CommandGiven,
    EvidenceReached,
    HeartbeatSeen,
    MetricBreached,
    RouteAcknowledged,
    RouteRefused,
    ServerChanged,
    TakenOver,
    Ticked,
    Verb,
    VersionApproved,
    VersionBlessed,
    VersionRegistered,
)
from tidegate.deployer.rollout import decide
from tidegate.deployer.state import (
    TERMINAL_PHASES,
    WEIGHT_TOTAL,
    Blessed,
    DeliveryPolicy,
    EvidenceItem,
    KnownVersion,
    ModelState,
    Number,
    Phase,
    Strategy,
)

ROUNDS_TO_QUIESCENCE = 300
NUMBERS = st.sampled_from(
    [Number(1, 0, 0), Number(1, 0, 1), Number(1, 1, 0), Number(1, 2, 0), Number(2, 0, 0), Number(2, 1, 0)]
)
CANARIES = st.builds(
    Strategy,
    name=st.just("canary"),
    steps=st.sampled_from([(0.1, 1.0), (0.01, 0.25, 1.0), (0.1, 0.2, 0.5, 1.0), (1.0,)]),
    bake_s=st.sampled_from([0.0, 5.0]),
    approval=st.sampled_from(["", "", "", "operator"]),
)
STRATEGIES = CANARIES | st.builds(Strategy, name=st.just("blue_green"), bake_s=st.just(0.0))
POLICIES = st.builds(
    DeliveryPolicy,
    revision=st.just(1),
    on_first=st.just(Strategy(name="blue_green")),
    on_major=STRATEGIES,
    on_minor=STRATEGIES,
    on_pipeline=CANARIES,
    approvals=st.sampled_from([(0, 0, 0), (0, 0, 0), (1, 0, 0), (1, 1, 1)]),
    deadline_s=st.sampled_from([86_400.0, 200.0]),
    settle_s=st.sampled_from([0.0, 20.0]),
    holdback=st.sampled_from([0.0, 0.2]),
    on_breach=st.sampled_from(["rollback", "rollback", "freeze"]),
    mid_rollout=st.sampled_from(["queue", "queue", "supersede"]),
    mode=st.sampled_from(["act", "act", "act", "observe"]),
)
EVIDENCE = EvidenceItem(guard="errors", e_value=30.0, threshold=20.0)


def weight_of(state, number):
    return sum(arm.weight_millionths for line in state.route.lines for arm in line.arms if arm.number == number)


class RolloutMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.state = ModelState(model="fraud")
        self.time_s = 1_000.0
        self.events = []
        self.count = 0
        self.table = (0, 0)  # the newest route that the proxies were given
        self.ever_ready = set()
        self.acknowledged_s = {}
        self.evident = set()
        self.consented = set()
        self.breached = {}
        self.phases = {}

    @initialize(
        known=st.sets(NUMBERS), in_service=st.sampled_from([True, True, True, False]), canary=st.none() | POLICIES
    )
    def begin(self, known, in_service, canary):
        """Begin with some versions known, mostly with one in service, often with a canary beside it."""
        first, second = Number(1, 0, 0), Number(1, 0, 1)
        for number in sorted(known | {first, second}):
            self.registered_as(number)
        if not in_service:
            return
        switch = Strategy(name="blue_green")
        policy = DeliveryPolicy(
            revision=1, on_first=switch, on_major=switch, on_minor=switch, on_pipeline=switch, settle_s=0.0
        )
        self.blessed_as(first, policy, "first")
        self.favour()
        self.favour()
        assert self.state.stable == first
        if canary is not None:
            self.blessed_as(second, canary, "second")
            self.server(second, ready=True)

    # What can happen.

    @rule(number=NUMBERS)
    def registered(self, number):
        self.registered_as(number)

    def registered_as(self, number):
        version = KnownVersion(number=number, uri="s3://a", digest="sha256:0", size_bytes=1, format="onnx")
        self.happen(VersionRegistered, version=version)

    @rule(number=NUMBERS, policy=POLICIES, again=st.booleans())
    def blessed(self, number, policy, again):
        self.count += 1
        self.blessed_as(number, policy, "same" if again else self.count)

    @precondition(lambda self: self.state.rollout is None and self.state.versions)
    @rule(data=st.data(), policy=POLICIES)
    def blessed_known(self, data, policy):
        self.count += 1
        number = data.draw(st.sampled_from(sorted(version.number for version in self.state.versions)))
        self.blessed_as(number, policy, self.count)

    def blessed_as(self, number, policy, name):
        rollout_id = f"fraud-{number}-{name}"
        blessed = Blessed(number=number, policy=policy, cause_id="c", rollout_id=rollout_id, correlation_id="k")
        self.happen(VersionBlessed, blessed=blessed)

    @rule(number=NUMBERS)
    def approved(self, number):
        self.happen(VersionApproved, number=number)

    @rule(data=st.data(), ready=st.sampled_from([True, True, False]), failed=st.booleans(), place=st.integers(0, 2))
    def server_changed(self, data, ready, failed, place):
        number = data.draw(st.sampled_from(self.state.wanted_servers() or (Number(1, 0, 0),)))
        self.server(number, ready=ready, failure="" if ready or not failed else "LOAD_FAILED", place=place)

    @precondition(lambda self: not self.state.route.acknowledged)
    @rule()
    def acknowledged(self):
        self.acknowledge(*self.table)

    @rule(epoch=st.integers(0, 3), revision=st.integers(0, 5))
    def acknowledged_some(self, epoch, revision):
        if (epoch, revision) <= self.table:
            self.acknowledge(epoch, revision)

    @rule(back=st.sampled_from([0, 0, 0, 1]))
    def refused(self, back):
        epoch, revision = self.table
        self.happen(RouteRefused, epoch=epoch, revision=revision - back, message="no")

    @precondition(lambda self: self.state.rollout is not None)
    @rule(back=st.sampled_from([0, 0, 0, 1]))
    def evidence(self, back):
        self.give_evidence(back)

    @rule(times=st.integers(1, 3))
    def goes_well(self, times):
        for _ in range(times):
            self.favour(consent=False)

    @precondition(lambda self: self.state.rollout is not None)
    @rule(stale=st.booleans())
    def bakes(self, stale):
        """Let a step have all but evidence of its route."""
        if not self.state.route.acknowledged:
            self.acknowledge(*self.table)
        if self.state.rollout is not None and stale:
            self.give_evidence(back=1)
        self.time_s += 10.0
        self.happen(Ticked)

    @precondition(lambda self: self.state.rollout is not None and self.state.rollout.breached_guard)
    @rule(verb=st.sampled_from([Verb.RESUME, Verb.PROMOTE]), full=st.booleans())
    def insist(self, verb, full):
        self.give(verb, full=full)

    @precondition(lambda self: self.state.rollout is not None and self.state.rollout.has_traffic)
    @rule()
    def breach(self):
        self.give_breach(self.state.rollout.rollout_id)

    @precondition(lambda self: self.phases)
    @rule(data=st.data())
    def late_word_of_the_monitor(self, data):
        rollout_id = data.draw(st.sampled_from(sorted(self.phases)))
        if self.state.rollout is None or self.state.rollout.rollout_id != rollout_id:
            self.give_breach(rollout_id)

    @precondition(lambda self: self.state.rollout is not None)
    @rule()
    def heartbeat(self):
        self.happen(HeartbeatSeen, rollout_id=self.state.rollout.rollout_id)

    @rule(verb=st.sampled_from(Verb), number=st.none() | NUMBERS, full=st.booleans(), again=st.sampled_from([0, 0, 1]))
    def command(self, verb, number, full, again):
        self.give(verb, number=number, full=full, again=again)

    @rule()
    def taken_over(self):
        self.happen(TakenOver)

    @rule(seconds=st.sampled_from([0.0, 1.0, 6.0, 25.0, 35.0, 700.0]))
    def ticked(self, seconds):
        self.time_s += seconds
        self.happen(Ticked)

    # How it happens.

    def server(self, number, *, ready, failure="", place=0):
        if ready:
            self.ever_ready.add(number)
        endpoint = f"unix:/run/{number}/{place}" if ready else ""
        self.happen(ServerChanged, number=number, endpoint=endpoint, ready=ready, failure=failure)

    def acknowledge(self, epoch, revision):
        self.happen(RouteAcknowledged, epoch=epoch, revision=revision)

    def give_evidence(self, back=0):
        rollout, route = self.state.rollout, self.state.route
        self.happen(
            EvidenceReached,
            rollout_id=rollout.rollout_id,
            epoch=route.epoch,
            revision=route.revision - back,
            evidence=EVIDENCE,
        )

    def give_breach(self, rollout_id):
        self.happen(MetricBreached, rollout_id=rollout_id, guard="errors", evidence=EVIDENCE)

    def give(self, verb, *, number=None, full=False, again=0):
        self.count += 1 - again
        rollout_id = self.state.rollout.rollout_id if self.state.rollout is not None else "none"
        self.happen(
            CommandGiven,
            request_id=f"r{self.count}",
            verb=verb,
            rollout_id=rollout_id,
            number=number,
            full=full,
            actor="ana",
        )

    def happen(self, kind, **fields):
        event = kind(time_s=self.time_s, **({} if kind is Ticked else {"cause": kind.__name__}), **fields)
        self.events.append(event)
        before = self.state
        decision = decide(before, event)
        self.remember(before, event)
        self.state = decision.state
        self.check_order(before, decision)
        self.check_route(decision.state)
        for step in decision.steps:
            self.check_step(before, event, step)
        self.check_breaches(event, before)

    def remember(self, before, event):
        match event:
            case RouteAcknowledged() if (event.epoch, event.revision) == (before.route.epoch, before.route.revision):
                self.acknowledged_s.setdefault((event.epoch, event.revision), event.time_s)
            case EvidenceReached():
                self.evident.add((event.rollout_id, event.epoch, event.revision))
            case VersionApproved() if before.version(event.number) is not None:
                self.consented.add(event.number)
            case CommandGiven(verb=Verb.APPROVE):
                self.consented.add(event.rollout_id)
            case MetricBreached() if before.rollout is not None and before.rollout.rollout_id == event.rollout_id:
                self.breached.setdefault(event.rollout_id, weight_of(before, before.rollout.candidate))

    # What must hold.

    def check_order(self, before, decision):
        after = decision.state
        expected = [before.sequence + 1 + index for index in range(len(decision.steps))]
        assert [step.sequence for step in decision.steps] == expected
        assert after.sequence == before.sequence + len(decision.steps) + (decision.retirement is not None)
        old, new = (before.route.epoch, before.route.revision), (after.route.epoch, after.route.revision)
        changed = (before.route.lines, before.route.endpoints) != (after.route.lines, after.route.endpoints)
        assert new > old if changed else new >= old
        assert not changed or decision.route_changed
        if decision.route_changed:
            assert new > self.table
            self.table = new
        assert decision.reason

    def check_route(self, state):
        endpoints = dict(state.route.endpoints)
        majors = [line.major for line in state.route.lines]
        assert len(set(majors)) == len(majors)
        for line in state.route.lines:
            assert sum(arm.weight_millionths for arm in line.arms) == WEIGHT_TOTAL
            assert line.fallback is None or line.fallback in {arm.number for arm in line.arms}
            for arm in line.arms:
                known = state.version(arm.number)
                assert arm.weight_millionths >= 0
                assert arm.number.major == line.major
                assert known is not None
                assert known.blessed, f"{arm.number} has traffic, but no blessing"
                assert not known.retired, f"{arm.number} has traffic, but is retired"
                assert state.retired is None, "a retired model has traffic"
                assert arm.number in self.ever_ready, f"{arm.number} has traffic, but was never ready"
                assert endpoints[arm.number], f"{arm.number} has traffic, but no endpoint"
        assert {*state.route.versions(), *state.route.draining} <= {*state.wanted_servers()}
        if state.rollout is None and state.stable is not None:
            assert state.route.lines[0].arms[0].number == state.stable
            assert len(state.route.lines[0].arms) == 1

    def check_step(self, before, event, step):
        rollout = step.rollout
        phases = self.phases.setdefault(rollout.rollout_id, [])
        assert not TERMINAL_PHASES & {*phases}, f"{rollout.rollout_id} had ended as {phases[-1]}"
        if not phases:
            assert rollout.phase is Phase.STARTING
            asked = isinstance(event, CommandGiven) and event.verb in {Verb.START, Verb.ROLLBACK, Verb.RESTORE}
            assert rollout.stable is None or rollout.candidate > rollout.stable or asked
        phases.append(rollout.phase)
        if rollout.phase in {Phase.STEPPING, Phase.SETTLING} and rollout.approval:
            assert self.consented & {rollout.candidate, rollout.rollout_id}, "nobody consented"
        self.check_step_earned(before, event, step)

    def check_step_earned(self, before, event, step):
        old, rollout = before.rollout, step.rollout
        if old is None or old.rollout_id != rollout.rollout_id or rollout.step_index <= old.step_index:
            return
        if isinstance(event, CommandGiven) and event.verb is Verb.PROMOTE:
            return
        assert rollout.step_index == old.step_index + 1
        route = (before.route.epoch, before.route.revision)
        assert (rollout.rollout_id, *route) in self.evident, "a step without evidence of its route"
        assert event.time_s - self.acknowledged_s[route] >= rollout.bake_s, "a step that was not baked"

    def check_breaches(self, event, before):
        rollout = self.state.rollout
        if rollout is None or rollout.rollout_id not in self.breached:
            return
        weight = weight_of(self.state, rollout.candidate)
        assert weight <= self.breached[rollout.rollout_id], "more traffic after a breach"
        self.breached[rollout.rollout_id] = weight
        if isinstance(event, CommandGiven) and event.verb in {Verb.RESUME, Verb.PROMOTE}:
            assert replace(before, request_ids=()) == replace(self.state, request_ids=())

    # Where it ends.

    def teardown(self):
        for _ in range(ROUNDS_TO_QUIESCENCE):
            if self.state.rollout is None:
                break
            self.favour()
        assert self.state.rollout is None, f"{self.state.rollout} does not end"
        for rollout_id, phases in self.phases.items():
            ends = [phase for phase in phases if phase in TERMINAL_PHASES]
            assert len(ends) == 1, f"{rollout_id} went through {phases}"
            assert phases[-1] is ends[0]

    def favour(self, *, consent=True):
        """Let everything go well for a while; ``consent``: people too do what is wanted of them."""
        for number in self.state.wanted_servers():
            if not self.state.ready_endpoint(number):
                self.server(number, ready=True)
        if not self.state.route.acknowledged:
            self.acknowledge(*self.table)
        rollout = self.state.rollout
        if rollout is None:
            return
        if rollout.phase in {Phase.AWAITING_APPROVAL, Phase.PAUSED} and not consent:
            return
        if rollout.phase is Phase.AWAITING_APPROVAL:
            self.give(Verb.APPROVE)
        elif rollout.phase is Phase.PAUSED:
            self.give(Verb.ABORT if rollout.breached_guard else Verb.RESUME)
        else:
            self.happen(HeartbeatSeen, rollout_id=rollout.rollout_id)
            self.give_evidence()
            self.time_s += 10.0
            self.happen(Ticked)


RolloutMachine.TestCase.settings = settings(
    max_examples=repeats(100, many=1000),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestRolloutMachine = RolloutMachine.TestCase
