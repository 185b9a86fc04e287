"""A proxy in a box gets any sequence of tables, answers, refusals and reconnects; it never routes to a missing cluster."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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

MODELS = ("churn", "fraud", "price")


def resources(model, revision, versions, body=b"a"):
    return ModelResources(
        model=model,
        epoch=1,
        revision=revision,
        clusters={f"{model}@{version}": body for version in versions},
        routes=tuple(f"{model}@{version}".encode() for version in versions),
    )


def drain(state, desired):
    """Acknowledge everything; return the state and what was pushed."""
    pushes = []
    while (push := plan(state, desired)) is not None:
        pushes.append(push)
        state = on_accepted(on_sent(state, push), desired)
    return state, pushes


def test_shift_adds_clusters_then_routes_then_removes():
    old, new = resources("churn", 1, ["1"]), resources("churn", 2, ["2"])
    state, _ = drain(ProxyState(routes_subscribed=True), {"churn": old})
    state, pushes = drain(state, {"churn": new})
    assert pushes == [
        ClusterPush(clusters={"churn@1": b"a", "churn@2": b"a"}, models={"churn": new}),
        RoutePush(models={"churn": new}),
        ClusterPush(clusters={"churn@2": b"a"}, models={"churn": new}),
    ]
    assert is_settled(state, new)
    assert not is_settled(state, old)


def test_clusters_stay_until_requests_of_the_route_before_are_over():
    old, new, next_one = (resources("churn", place, [str(place)]) for place in (1, 2, 3))
    state, _ = drain(ProxyState(routes_subscribed=True), {"churn": old})
    for _ in range(2):
        state = on_accepted(on_sent(state, plan(state, {"churn": new}, drained=False)), {"churn": new})
    assert plan(state, {"churn": new}, drained=False) is None
    assert is_settled(state, new)
    # A further version takes nothing away either.
    added = plan(state, {"churn": next_one}, drained=False)
    assert set(added.clusters) == {"churn@1", "churn@2", "churn@3"}
    assert plan(state, {"churn": new}) == ClusterPush(clusters={"churn@2": b"a"}, models={"churn": new})


def test_weight_change_is_one_push():
    old, new = resources("churn", 1, ["1", "2"]), resources("churn", 2, ["1", "2"])
    state, _ = drain(ProxyState(routes_subscribed=True), {"churn": old})
    assert drain(state, {"churn": new})[1] == [RoutePush(models={"churn": new})]


def test_nothing_is_sent_before_the_answer():
    state = ProxyState(routes_subscribed=True)
    state = on_sent(state, plan(state, {}))
    assert plan(state, {"churn": resources("churn", 1, ["1"])}) is None


def test_refusal_of_one_changed_model_names_it():
    good, bad = resources("churn", 1, ["1"]), resources("fraud", 1, ["1"])
    state, _ = drain(ProxyState(routes_subscribed=True), {"churn": good})
    desired = {"churn": good, "fraud": bad}
    refusal = on_refused(on_sent(state, plan(state, desired)))
    assert refusal.guilty == (bad,)


def test_refusal_of_several_models_sends_them_alone():
    good, bad = resources("churn", 1, ["1"]), resources("fraud", 1, ["1"])
    desired = {"churn": good, "fraud": bad}
    state = ProxyState(routes_subscribed=True)
    refusal = on_refused(on_sent(state, plan(state, desired)))
    assert refusal.guilty == ()
    assert plan(refusal.state, desired).models == {"churn": good}


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

    @rule()
    def push_and_answer(self):
        push = plan(self.state, self.desired)
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
            self.routes = dict(push.models)
        self.state = on_accepted(self.state, self.desired)
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
        if self.state.routes_subscribed:
            assert self.routes == self.desired
            assert self.clusters == clusters_of(self.desired)
            assert all(is_settled(self.state, model) for model in self.desired.values())

    @invariant()
    def no_route_names_a_missing_cluster(self):
        named = {name for model in self.routes.values() for name in model.clusters}
        assert named <= set(self.clusters)


ProxyInABox.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestProxyInABox = ProxyInABox.TestCase
