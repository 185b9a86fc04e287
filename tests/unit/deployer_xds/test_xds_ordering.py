"""A proxy in a box gets any sequence of tables, answers, refusals and reconnects; it never routes to a missing cluster."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from more import repeats

from tidegate.deployer.xds.ordering import (
    ClusterPush,
    ModelResources,
    ProxyState,
    RoutePush,
    clusters_of,
    is_settled,
    on_accepted,
    on_refused,
    on_sent,
    plan,
)

DRAIN_S = 11.0
MODELS = ("churn", "fraud", "price")


def resources(model, revision, versions, body=b"a"):
    return ModelResources(
        model=model,
        epoch=1,
        revision=revision,
        clusters={f"{model}@{version}": body for version in versions},
        routes=tuple(f"{model}@{version}".encode() for version in versions),
    )


def drain(state, desired, now_s=0.0):
    """Acknowledge everything; return the state and what was pushed."""
    pushes = []
    while (push := plan(state, desired, now_s)) is not None:
        pushes.append(push)
        state = on_accepted(on_sent(state, push), desired, drained_s=now_s + DRAIN_S)
    return state, pushes


def test_shift_adds_clusters_then_routes_then_removes():
    old, new = resources("churn", 1, ["1"]), resources("churn", 2, ["2"])
    state, _ = drain(ProxyState(routes_subscribed=True), {"churn": old})
    state, pushes = drain(state, {"churn": new})
    assert pushes == [
        ClusterPush(clusters={"churn@1": b"a", "churn@2": b"a"}, models={"churn": new}),
        RoutePush(models={"churn": new}),
    ]
    assert is_settled(state, new)
    assert not is_settled(state, old)
    # Requests under way may still need the old cluster.
    assert drain(state, {"churn": new}, DRAIN_S - 0.1)[1] == []
    state, pushes = drain(state, {"churn": new}, DRAIN_S)
    assert pushes == [ClusterPush(clusters={"churn@2": b"a"}, models={"churn": new})]
    assert is_settled(state, new)


def test_version_that_comes_back_while_it_drains_is_there_and_drains_anew():
    one, two = resources("churn", 1, ["1"]), resources("churn", 2, ["2"])
    back, again = resources("churn", 3, ["1"]), resources("churn", 4, ["2"])
    state, _ = drain(ProxyState(routes_subscribed=True), {"churn": one})
    state, _ = drain(state, {"churn": two}, 1.0)
    state, pushes = drain(state, {"churn": back}, 2.0)
    assert pushes == [RoutePush(models={"churn": back})]
    state, _ = drain(state, {"churn": again}, 5.0)
    assert drain(state, {"churn": again}, 1.0 + DRAIN_S)[1] == []
    assert drain(state, {"churn": again}, 5.0 + DRAIN_S)[1] == [
        ClusterPush(clusters={"churn@2": b"a"}, models={"churn": again})
    ]


def test_other_shifts_do_not_keep_a_drained_cluster():
    old, new = resources("churn", 1, ["1"]), resources("churn", 2, ["2"])
    state, _ = drain(ProxyState(routes_subscribed=True), {"churn": old})
    state, _ = drain(state, {"churn": new}, 1.0)
    for second in range(2, 30):
        state, _ = drain(state, {"churn": new, "fraud": resources("fraud", second, ["1"])}, float(second))
    assert set(state.clusters) == {"churn@2", "fraud@1"}


def test_further_version_takes_nothing_away_while_clusters_drain():
    old, new, next_one = (resources("churn", place, [str(place)]) for place in (1, 2, 3))
    state, _ = drain(ProxyState(routes_subscribed=True), {"churn": old})
    state, _ = drain(state, {"churn": new}, 1.0)
    added = plan(state, {"churn": next_one}, 2.0)
    assert set(added.clusters) == {"churn@1", "churn@2", "churn@3"}


def test_clusters_that_drain_outlive_a_refusal():
    old, new = resources("churn", 1, ["1"]), resources("churn", 2, ["2"])
    state, _ = drain(ProxyState(routes_subscribed=True), {"churn": old})
    state, _ = drain(state, {"churn": new}, 1.0)
    desired = {"churn": new, "fraud": resources("fraud", 1, ["1"])}
    refused = on_refused(on_sent(state, plan(state, desired, 2.0))).state
    assert set(plan(refused, {"churn": new}, 3.0).clusters) == {"churn@1", "churn@2"}


def test_weight_change_is_one_push():
    old, new = resources("churn", 1, ["1", "2"]), resources("churn", 2, ["1", "2"])
    state, _ = drain(ProxyState(routes_subscribed=True), {"churn": old})
    assert drain(state, {"churn": new})[1] == [RoutePush(models={"churn": new})]


def test_nothing_is_sent_before_the_answer():
    state = ProxyState(routes_subscribed=True)
    state = on_sent(state, plan(state, {}, 0.0))
    assert plan(state, {"churn": resources("churn", 1, ["1"])}, 0.0) is None


def test_refusal_of_one_changed_model_names_it():
    good, bad = resources("churn", 1, ["1"]), resources("fraud", 1, ["1"])
    state, _ = drain(ProxyState(routes_subscribed=True), {"churn": good})
    desired = {"churn": good, "fraud": bad}
    refusal = on_refused(on_sent(state, plan(state, desired, 0.0)))
    assert refusal.guilty == (bad,)


def test_refusal_of_several_models_sends_them_alone():
    good, bad = resources("churn", 1, ["1"]), resources("fraud", 1, ["1"])
    desired = {"churn": good, "fraud": bad}
    state = ProxyState(routes_subscribed=True)
    refusal = on_refused(on_sent(state, plan(state, desired, 0.0)))
    assert refusal.guilty == ()
    assert plan(refusal.state, desired, 0.0).models == {"churn": good}


class ProxyInABox(RuleBasedStateMachine):
    """The proxy applies what it accepts at once; the fleet sees it when it acknowledges."""

    @initialize()
    def begin(self):
        self.desired = {}
        self.accepted = {}
        self.state = ProxyState()
        self.revision = 0
        self.clusters = {}
        self.routes = {}
        self.bad = set()
        self.now_s = 0.0
        self.needed_until = {}

    @rule(
        model=st.sampled_from(MODELS),
        versions=st.sets(st.integers(1, 4), max_size=3),
        body=st.sampled_from([b"a", b"b"]),
        bad=st.booleans(),
    )
    def apply(self, model, versions, body, bad):
        self.revision += 1
        table = resources(model, self.revision, sorted(versions), body)
        if bad:
            self.bad.add((model, self.revision))
        self.desired = {**self.desired, model: table}

    @rule()
    @precondition(lambda self: not self.state.routes_subscribed and self.state.clusters is not None)
    def subscribe(self):
        self.state = replace(self.state, routes_subscribed=True, models=None)

    @rule(seconds=st.floats(0.0, DRAIN_S))
    def time_passes(self, seconds):
        self.now_s += seconds

    @rule()
    def push_and_answer(self):
        push = plan(self.state, self.desired, self.now_s)
        if push is None:
            return
        self.state = on_sent(self.state, push)
        changed = [model for model in push.models.values() if (self.state.models or {}).get(model.model) != model]
        if any((model.model, model.revision) in self.bad for model in changed):
            if isinstance(push, ClusterPush):
                self.take_good_clusters(push)
            refusal = on_refused(self.state)
            self.state = refusal.state
            for guilty in refusal.guilty:
                others = {model: kept for model, kept in self.desired.items() if model != guilty.model}
                kept = self.accepted.get(guilty.model)
                self.desired = others if kept is None else {**others, guilty.model: kept}
            return
        if isinstance(push, ClusterPush):
            self.clusters = dict(push.clusters)
        else:
            # Requests that were routed by the old table may need its clusters for as long as a request takes.
            self.needed_until |= dict.fromkeys(clusters_of(self.routes), self.now_s + DRAIN_S)
            self.routes = dict(push.models)
        self.state = on_accepted(self.state, self.desired, drained_s=self.now_s + DRAIN_S)
        for model in self.desired.values():
            if is_settled(self.state, model):
                self.accepted[model.model] = model

    def take_good_clusters(self, push):
        """As Envoy does with a refused response: good clusters are taken, absent ones go, bad ones stay as they were."""
        good = {
            name: body
            for model in push.models.values()
            if (model.model, model.revision) not in self.bad
            for name, body in model.clusters.items()
        }
        stay = {name: body for name, body in self.clusters.items() if name in push.clusters}
        self.clusters = {**stay, **good}

    @rule()
    def converge(self):
        for _ in range(100):
            self.push_and_answer()
        self.now_s += DRAIN_S
        for _ in range(3):
            self.push_and_answer()
        if self.state.routes_subscribed:
            assert self.routes == self.desired
            assert self.clusters == clusters_of(self.desired)
            assert all(is_settled(self.state, model) for model in self.desired.values())

    @invariant()
    def no_route_names_a_missing_cluster(self):
        named = {name for model in self.routes.values() for name in model.clusters}
        assert named <= set(self.clusters)

    @invariant()
    def no_cluster_goes_that_a_request_under_way_may_need(self):
        needed = {name for name, until in self.needed_until.items() if until > self.now_s}
        assert needed <= set(self.clusters)


ProxyInABox.TestCase.settings = settings(max_examples=repeats(100, many=1000), stateful_step_count=40, deadline=None)
TestProxyInABox = ProxyInABox.TestCase
