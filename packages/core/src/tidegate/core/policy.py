"""Policies: defaults, checks, and the YAML that people write (the JSON form of ``tidegate.v1.Policy``)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

from tidegate.contracts.names import MODEL_PATTERN, is_model
from tidegate.core.errors import InvalidInput
from tidegate.v1.policy_pb2 import Guard, Policy, RuntimePolicy, StrategyPolicy
from tidegate.v1.values_pb2 import Reason

GATE_METRICS: Final = ("roc_auc", "accuracy")
STRATEGIES: Final = ("blue_green", "canary")
SANDBOX_LEVELS: Final = ("limits", "bubblewrap")
POLICY_BYTES_MAX: Final = 256 * 1024

DEFAULT_BAKE_S: Final = 10.0
DEFAULT_SETTLE_S: Final = 600.0
DEFAULT_DEADLINE_S: Final = 86_400.0
DEFAULT_ALPHA: Final = 0.01


def default_policy(model: str) -> Policy:
    """Return the built-in policy, which holds until one is applied (revision 0)."""
    return resolve_policy(Policy(model=model))


def resolve_policy(policy: Policy) -> Policy:
    """Return a copy of ``policy`` with every default filled in; resolving twice changes nothing."""
    resolved = Policy()
    resolved.CopyFrom(policy)
    resolved.mode = resolved.mode or "act"
    _resolve_registration(resolved)
    _resolve_validation(resolved)
    _resolve_rollout(resolved)
    _resolve_guards(resolved)
    return resolved


def _resolve_registration(policy: Policy) -> None:
    gate = policy.registration.gate_metric
    gate.name = gate.name or "roc_auc"
    gate.alpha = gate.alpha or 0.05
    if not gate.HasField("higher_is_better"):
        gate.higher_is_better = True
    if not policy.registration.approvals.HasField("major"):
        policy.registration.approvals.major = 1


def _resolve_validation(policy: Policy) -> None:
    validation = policy.validation
    validation.data.schema = validation.data.schema or "infer"
    validation.golden.atol = validation.golden.atol or 1e-5
    validation.min_sandbox = validation.min_sandbox or "limits"
    if not validation.runtimes:
        validation.runtimes.append(RuntimePolicy(name="kserve-onnx"))
    for runtime in validation.runtimes:
        runtime.load_timeout_s = runtime.load_timeout_s or 60.0
        runtime.memory_mib_max = runtime.memory_mib_max or 1024


def _resolve_rollout(policy: Policy) -> None:
    rollout = policy.rollout
    if not rollout.on_major.strategy and not rollout.on_major.approval:
        rollout.on_major.approval = "operator"
    _resolve_strategy(rollout.on_first, strategy="blue_green", steps=())
    _resolve_strategy(rollout.on_major, strategy="blue_green", steps=())
    _resolve_strategy(rollout.on_minor, strategy="canary", steps=(0.01, 0.05, 0.25, 0.5, 1.0))
    _resolve_strategy(rollout.on_pipeline, strategy="canary", steps=(0.1, 1.0))
    rollout.deadline_s = rollout.deadline_s or DEFAULT_DEADLINE_S
    if not rollout.HasField("settle_s"):
        rollout.settle_s = DEFAULT_SETTLE_S
    rollout.on_breach = rollout.on_breach or "rollback"
    rollout.mid_rollout = rollout.mid_rollout or "queue"


def _resolve_strategy(wanted: StrategyPolicy, *, strategy: str, steps: tuple[float, ...]) -> None:
    wanted.strategy = wanted.strategy or strategy
    if wanted.strategy == "canary" and not wanted.steps:
        wanted.steps.extend(steps or (0.1, 1.0))
    if not wanted.HasField("bake_s"):
        wanted.bake_s = DEFAULT_BAKE_S


def _resolve_guards(policy: Policy) -> None:
    guards = policy.guards
    guards.alpha = guards.alpha or DEFAULT_ALPHA
    if not guards.items:
        guards.items.append(Guard(metric="error_rate", margin=0.005, floor=0.05))
        guards.items.append(Guard(metric="latency_ms", quantile=0.99, ratio=1.5, ceiling=1000.0))
        guards.items.append(Guard(metric="client_errors", margin=0.05))
    for guard in guards.items:
        if guard.metric == "latency_ms":
            guard.quantile = guard.quantile or 0.99
        if guard.outcome:
            guard.absent_means = guard.absent_means or "missing"


def validate_policy(policy: Policy) -> list[Reason]:
    """Return what is wrong with a resolved policy, each naming its field; empty = nothing."""
    return [Reason(code="POLICY_INVALID", message=message, field=field) for field, message in _faults(policy)]


def _faults(policy: Policy) -> Iterator[tuple[str, str]]:
    if not is_model(policy.model):
        yield "model", f"model is {policy.model!r}, expected a name like {MODEL_PATTERN}"
    yield from _one_of("mode", policy.mode, ("act", "observe"))
    gate = policy.registration.gate_metric
    yield from _one_of("registration.gate_metric.name", gate.name, GATE_METRICS)
    yield from _within("registration.gate_metric.alpha", gate.alpha, 0.0, 0.5)
    yield from _one_of("validation.min_sandbox", policy.validation.min_sandbox, SANDBOX_LEVELS)
    for name in ("on_first", "on_major", "on_minor", "on_pipeline"):
        yield from _strategy_faults(f"rollout.{name}", getattr(policy.rollout, name))
    yield from _within("rollout.holdback", policy.rollout.holdback, -1e-9, 0.5)
    yield from _one_of("rollout.on_breach", policy.rollout.on_breach, ("rollback", "freeze"))
    yield from _one_of("rollout.mid_rollout", policy.rollout.mid_rollout, ("queue", "supersede"))
    if policy.rollout.settle_s < 0:
        yield "rollout.settle_s", f"is {policy.rollout.settle_s}, expected at least 0 seconds"
    yield from _within("guards.alpha", policy.guards.alpha, 0.0, 0.5)
    for index, guard in enumerate(policy.guards.items):
        yield from _guard_faults(f"guards.items[{index}]", guard)


def _strategy_faults(field: str, strategy: StrategyPolicy) -> Iterator[tuple[str, str]]:
    yield from _one_of(f"{field}.strategy", strategy.strategy, STRATEGIES)
    if strategy.bake_s < 0:
        yield f"{field}.bake_s", f"is {strategy.bake_s}, expected at least 0 seconds"
    steps = list(strategy.steps)
    rising = all(low < high for low, high in itertools.pairwise(steps))
    if strategy.strategy == "canary" and not (rising and steps[0] > 0 and steps[-1] == 1.0):
        yield f"{field}.steps", f"are {steps}, expected shares that rise from above 0 to exactly 1.0"


def _guard_faults(field: str, guard: Guard) -> Iterator[tuple[str, str]]:
    if not guard.metric:
        yield (
            f"{field}.metric",
            "is missing, expected error_rate, client_errors, latency_ms or the name of an outcome metric",
        )
    if guard.margin < 0 or guard.margin >= 1:
        yield f"{field}.margin", f"is {guard.margin}, expected a share from 0 to below 1"
    if guard.metric == "latency_ms":
        yield from _within(f"{field}.quantile", guard.quantile, 0.0, 1.0)
        if guard.ratio and guard.ratio < 1:
            yield f"{field}.ratio", f"is {guard.ratio}, expected at least 1"


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if value not in allowed:
        yield field, f"is {value!r}, expected one of {', '.join(allowed)}"


def _within(field: str, value: float, low: float, high: float) -> Iterator[tuple[str, str]]:
    if not low < value < high:
        yield field, f"is {value}, expected a number between {max(low, 0.0)} and {high}"


def policy_from_yaml(text: str) -> Policy:
    """Return the policy in ``text``, as written (defaults not filled in).

    Raises:
        InvalidInput: It is not YAML, not a mapping, or has a field that policies do not have.

    """
    if len(text) > POLICY_BYTES_MAX:
        raise InvalidInput(
            f"the policy has {len(text)} characters, at most {POLICY_BYTES_MAX}", code="POLICY_TOO_LARGE"
        )
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput(f"the policy is not YAML: {error}", code="POLICY_UNREADABLE") from None
    if not isinstance(document, dict):
        raise InvalidInput(
            f"the policy is a {type(document).__name__}, expected a mapping",
            code="POLICY_UNREADABLE",
            hint="tidegate policy show MODEL prints a whole one",
        )
    try:
        return json_format.ParseDict(document, Policy())
    except json_format.ParseError as error:
        raise InvalidInput(f"the policy has a fault: {error}", code="POLICY_UNREADABLE") from None


def policy_to_yaml(policy: Policy) -> str:
    """Return ``policy`` as YAML, with floats as people write them."""
    return yaml.safe_dump(policy_to_dict(policy), sort_keys=False, allow_unicode=True)


def policy_to_dict(policy: Message) -> dict[str, Any]:
    """Return the JSON form of ``policy`` with the contract's field names."""
    return json_format.MessageToDict(policy, preserving_proto_field_name=True)
