"""Defaults, checks and the YAML of policies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.errors import InvalidInput
from tidegate.core.policy import (
    default_policy,
    policy_from_yaml,
    policy_to_yaml,
    resolve_policy,
    validate_policy,
)
from tidegate.v1.policy_pb2 import Policy

CONTRACT_EXAMPLE = """
model: flight-delay
registration:
  required: [owner, description, code_commit, metrics]
  gate_metric: {name: roc_auc, higher_is_better: true, min_effect: 0.0, alpha: 0.05}
  guarded_slices: [carrier]
  approvals: {major: 1, minor: 0, pipeline: 0}
validation:
  data: {schema: infer}
  metrics:
    - {name: roc_auc, min: 0.70, max_drop: 0.01, confidence: 0.95}
  slices: [{by: carrier, min_rows: 200, metric: roc_auc, min: 0.60}]
  golden: {atol: 1.0e-5}
  code_coverage_min: 0
  runtimes: [{name: kserve-onnx, load_timeout_s: 60, latency_ms_p99_max: 100, memory_mib_max: 1024}]
  min_sandbox: limits
rollout:
  on_first:    {strategy: blue_green}
  on_major:    {strategy: blue_green, shadow: {weight: 0.1, bake_s: 60}, approval: operator}
  on_minor:    {strategy: canary, steps: [0.01, 0.05, 0.25, 0.5, 1.0], bake_s: 10}
  on_pipeline: {strategy: canary, steps: [0.1, 1.0], bake_s: 10}
  deadline_s: 86400
  settle_s: 600
  holdback: 0.0
  on_breach: rollback
  mid_rollout: queue
guards:
  alpha: 0.01
  items:
    - {metric: error_rate, margin: 0.005, floor: 0.05}
    - {metric: latency_ms, quantile: 0.99, ratio: 1.2, ceiling: 500}
    - {metric: accuracy, outcome: label, margin: 0.01, horizon_s: 60, absent_means: missing}
mode: act
"""


def test_the_contracts_example_is_read_and_has_no_fault():
    policy = resolve_policy(policy_from_yaml(CONTRACT_EXAMPLE))
    assert validate_policy(policy) == []
    assert list(policy.rollout.on_minor.steps) == [0.01, 0.05, 0.25, 0.5, 1.0]
    assert policy.guards.items[2].horizon_s == 60


def test_the_built_in_policy_has_no_fault():
    assert validate_policy(default_policy("flight-delay")) == []


@given(
    settle=st.none() | st.floats(0, 1e6),
    bake=st.none() | st.floats(0, 1e4),
    mode=st.sampled_from(["", "act", "observe"]),
)
def test_resolving_twice_changes_nothing_and_yaml_keeps_all(settle, bake, mode):
    policy = Policy(model="m", mode=mode)
    if settle is not None:
        policy.rollout.settle_s = settle
    if bake is not None:
        policy.rollout.on_minor.bake_s = bake
    once = resolve_policy(policy)
    assert resolve_policy(once) == once
    assert resolve_policy(policy_from_yaml(policy_to_yaml(once))) == once


def test_zero_is_not_mistaken_for_left_out():
    policy = resolve_policy(policy_from_yaml("{model: m, rollout: {settle_s: 0, on_minor: {bake_s: 0}}}"))
    assert policy.rollout.settle_s == 0
    assert policy.rollout.on_minor.bake_s == 0
    assert policy.rollout.on_pipeline.bake_s == 10


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("model: Flight", "model"),
        ("{model: m, mode: maybe}", "mode"),
        ("{model: m, rollout: {on_minor: {strategy: canary, steps: [0.5, 0.1, 1.0]}}}", "rollout.on_minor.steps"),
        ("{model: m, rollout: {on_minor: {strategy: canary, steps: [0.5]}}}", "rollout.on_minor.steps"),
        ("{model: m, rollout: {on_first: {strategy: yolo}}}", "rollout.on_first.strategy"),
        ("{model: m, rollout: {on_breach: shrug}}", "rollout.on_breach"),
        ("{model: m, guards: {alpha: 0.9}}", "guards.alpha"),
        ("{model: m, guards: {items: [{metric: error_rate, margin: 2}]}}", "guards.items[0].margin"),
        ("{model: m, guards: {items: [{metric: latency_ms, ratio: 0.5}]}}", "guards.items[0].ratio"),
        ("{model: m, registration: {gate_metric: {name: vibes}}}", "registration.gate_metric.name"),
    ],
)
def test_faults_name_their_field(text, field):
    assert [reason.field for reason in validate_policy(resolve_policy(policy_from_yaml(text)))] == [field]


@pytest.mark.parametrize(
    "text", ["[]", "a: b: c", "model: {a: 1}", "{model: m, colour: red}", "{model: m, rollout: 3}", "x" * 300_000]
)
def test_unreadable_policies_are_refused(text):
    with pytest.raises(InvalidInput):
        policy_from_yaml(text)
