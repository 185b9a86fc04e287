"""What a seed means: policies, versions with their true quality, people, and when which fault strikes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tidegate.core.policy import resolve_policy
from tidegate.deployer.state import Phase
from tidegate.simulation.world import World
from tidegate.v1.policy_pb2 import Guard, GuardPolicy, Policy, StrategyPolicy

CHAOS_S: Final = (70.0, 110.0)
# Longer than a rollout may hold, and than the faults that let it begin to hold anew.
LONG_SILENCE_S: Final = (740.0, 800.0)
SERVERS_MAX: Final = 32
# Chance of a retirement, and of one more after it.
RETIRES: Final = 0.25
RETIREMENTS_MAX: Final = 8
# Chance that somebody tries versions again that have had their turn.
STARTS_AGAIN: Final = 0.2
# Share of the seeds whose model host has room for a few servers only.
FULL_HOST: Final = 0.15
WAITS_FOR_A_PHASE: Final = 1 / 3
# Which phase such a fault waits for; the short and rare ones more often. An ending is when servers are stopped.
AWAITED_PHASES: Final = {
    Phase.STARTING: 1,
    Phase.AWAITING_APPROVAL: 2,
    Phase.STEPPING: 1,
    Phase.HOLDING: 3,
    Phase.PAUSED: 2,
    Phase.SETTLING: 1,
    Phase.ROLLING_BACK: 3,
    Phase.PROMOTED: 3,
}


class Fault(StrEnum):
    """Everything that can go wrong."""

    CRASH_REGISTRY = "registry crashes"
    CRASH_VALIDATOR = "validator crashes"
    CRASH_DEPLOYER = "deployer crashes"
    CRASH_MONITOR = "monitor crashes"
    CRASH_HOST = "model host crashes"
    CONTROL_PLANE_DOWN = "control plane is dead for a while"
    DEPLOYER_PAUSED = "deployer stands still past its session"
    DEPLOYER_CUT = "deployer is cut off the bus"
    HANDOVER = "partitions move to another deployer"
    MONITOR_CUT = "monitor is silent"
    MONITOR_LONG_SILENCE = "monitor is silent beyond the limit"
    BROKER_DOWN = "broker is away"
    REBALANCE = "consumers get what they have not committed again"
    HOST_CUT = "model host can't be reached"
    SERVER_DIES = "model server dies"
    PROXY_DIES = "proxy dies"
    PROXY_CUT = "proxy is cut off"
    ACK_LOST = "proxy's acknowledgement is lost"
    ACK_LATE = "proxy's acknowledgement is late"
    TRAINING_TWICE = "training event comes twice"
    CLOCK_JUMP = "clock of a proxy jumps"
    COMMAND_TWICE = "command is sent twice"


@dataclass(frozen=True, kw_only=True, slots=True)
class Strike:
    """A fault at a time; ``length_s`` for those that last. With a ``phase`` it waits until a rollout enters that."""

    time_s: float
    fault: Fault
    length_s: float = 0.0
    phase: Phase | None = None


class Kind(StrEnum):
    """What a training run brings."""

    BETTER = "better"
    TIE = "tie"
    WORSE = "worse"
    BREAKING = "breaking"
    OLD_LINE = "old line"
    TWIN = "twin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """The truth about a version, which nobody may look at but the model servers (and the checker)."""

    error_rate: float = 0.0
    latency_ms: float = 20.0
    load_s: float = 1.0
    is_loadable: bool = True
    is_valid: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One training run that ends at ``time_s``."""

    model: str
    number: int
    time_s: float
    kind: Kind
    quality: Quality


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """A person wants something of a model at a time."""

    time_s: float
    model: str
    verb: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All that a seed decides beforehand."""

    models: tuple[str, ...]
    policies: dict[str, Policy]
    partitions: int
    proxies: int
    deployers: int
    chaos_s: float
    trainings: tuple[Training, ...]
    wishes: tuple[Wish, ...]
    strikes: tuple[Strike, ...]
    approver_s: float
    requests: int
    servers_max: int


def draw_plan(world: World) -> Plan:
    """Draw everything from the world's generator."""
    rng = world.rng
    models = ("fraud",) if world.chance(0.75) else ("fraud", "price")
    long_silence = world.chance(0.04)
    chaos_s = world.between(*CHAOS_S) + (LONG_SILENCE_S[1] + 50.0 if long_silence else 0.0)
    busy_s = world.between(*CHAOS_S)
    trainings = tuple(one for model in models for one in _trainings(world, model, busy_s))
    return Plan(
        models=models,
        policies={model: _policy(world, model, is_long=long_silence) for model in models},
        partitions=rng.choice((1, 2)),
        proxies=rng.choice((1, 2, 2, 3)),
        deployers=rng.choice((1, 2, 2)),
        chaos_s=max(chaos_s, busy_s),
        trainings=trainings,
        wishes=tuple(
            one for model in models for one in (*_wishes(world, model, busy_s), *_retirements(world, model, busy_s))
        ),
        strikes=tuple(_strikes(world, busy_s, trainings, long_silence=long_silence)),
        approver_s=rng.choice((0.0, world.between(1.0, 30.0), world.between(1.0, 30.0))),
        requests=rng.choice((12, 20, 30)),
        servers_max=_servers_max(world, len(models)),
    )


def _servers_max(world: World, models: int) -> int:
    """Draw how many servers the model host runs; mostly more than anybody wants.

    By a generator of its own: what else a seed means stays as it was.
    """
    rng = random.Random(f"servers {world.seed}")  # noqa: S311  (chance that must come again)
    return models + rng.choice((0, 1, 1)) if rng.random() < FULL_HOST else SERVERS_MAX


def _policy(world: World, model: str, *, is_long: bool) -> Policy:
    rng = world.rng
    policy = Policy(model=model, mode="observe" if world.chance(0.04) else "act")
    rollout = policy.rollout
    rollout.on_first.CopyFrom(StrategyPolicy(strategy=rng.choice(("blue_green", "canary"))))
    if world.chance(0.1):
        rollout.on_first.approval = "operator"
    for strategy, canary_share in ((rollout.on_minor, 0.8), (rollout.on_pipeline, 0.9), (rollout.on_major, 0.2)):
        strategy.strategy = "canary" if world.chance(canary_share) else "blue_green"
        strategy.steps.extend(rng.choice(((0.1, 1.0), (0.25, 0.5, 1.0), (0.3, 1.0), (0.5, 1.0), (0.2, 0.8, 1.0))))
        strategy.bake_s = rng.choice((0.0, 2.0, 5.0))
        if world.chance(0.1):
            strategy.approval = "operator"
    policy.registration.approvals.major = 1 if world.chance(0.6) else 0
    policy.registration.approvals.minor = 1 if world.chance(0.05) else 0
    policy.registration.gate_metric.name = "accuracy"
    rollout.settle_s = rng.choice((0.0, 5.0, 15.0))
    rollout.deadline_s = 1_500.0 if is_long else rng.choice((60.0, 120.0, 120.0))
    rollout.holdback = rng.choice((0.0, 0.0, 0.2))
    rollout.on_breach = rng.choice(("rollback", "rollback", "rollback", "freeze"))
    rollout.mid_rollout = rng.choice(("queue", "supersede"))
    policy.guards.CopyFrom(_guards(world))
    return resolve_policy(policy)


def _guards(world: World) -> GuardPolicy:
    guards = GuardPolicy(alpha=0.05)
    guards.items.append(Guard(metric="error_rate", margin=0.25, floor=0.4))
    if world.chance(0.2):
        guards.items.append(Guard(metric="latency_ms", quantile=0.9, ratio=2.0, ceiling=1000.0))
    return guards


def _trainings(world: World, model: str, busy_s: float) -> list[Training]:
    rng = world.rng
    kinds = [Kind.BETTER]
    kinds += rng.choices(
        (Kind.BETTER, Kind.TIE, Kind.WORSE, Kind.BREAKING, Kind.OLD_LINE, Kind.TWIN),
        weights=(5, 4, 1, 3, 2, 1),
        k=rng.choice((1, 2, 2, 3, 4)),
    )
    times = [0.0, *sorted(world.between(3.0, 0.8 * busy_s) for _ in kinds[1:])]
    return [
        Training(model=model, number=number, time_s=time_s, kind=kind, quality=_quality(world, is_first=number == 0))
        for number, (kind, time_s) in enumerate(zip(kinds, times, strict=True))
    ]


def _quality(world: World, *, is_first: bool) -> Quality:
    load_s = world.between(0.3, 3.0) if world.chance(0.8) else world.between(3.0, 12.0)
    if is_first and world.chance(0.95):
        return Quality(error_rate=world.rng.choice((0.0, 0.01)), load_s=load_s)
    fate = world.rng.random()
    if fate < 0.3:
        return Quality(error_rate=world.rng.choice((0.7, 0.9, 1.0)), load_s=load_s)
    if fate < 0.36:
        return Quality(latency_ms=400.0, load_s=load_s)
    if fate < 0.42:
        return Quality(load_s=load_s, is_loadable=False)
    if fate < 0.5:
        return Quality(load_s=load_s, is_valid=False)
    return Quality(error_rate=world.rng.choice((0.0, 0.01, 0.03)), load_s=load_s)


def _wishes(world: World, model: str, busy_s: float) -> list[Wish]:
    if world.chance(0.4):
        return []
    verbs = world.rng.choices(
        ("PAUSE", "RESUME", "PROMOTE", "PROMOTE_FULL", "ABORT", "APPROVE", "APPROVE_VERSION", "ROLLBACK", "START"),
        weights=(4, 5, 3, 1, 2, 2, 2, 3, 1),
        k=world.rng.choice((1, 2, 4, 6)),
    )
    return [Wish(time_s=world.between(5.0, busy_s), model=model, verb=verb) for verb in verbs]


def _retirements(world: World, model: str, busy_s: float) -> list[Wish]:
    """Draw what is taken out of service, mostly brought back, and started again; by a generator of its own."""
    rng = random.Random(f"retirements {world.seed} {model}")  # noqa: S311  (chance that must come again)
    wishes: list[Wish] = []
    while rng.random() < RETIRES and len(wishes) < RETIREMENTS_MAX:
        whole = rng.random() < 0.5
        time_s = rng.uniform(5.0, busy_s)
        wishes.append(Wish(time_s=time_s, model=model, verb="RETIRE_MODEL" if whole else "RETIRE"))
        if rng.random() < 0.8:
            back_s = time_s + rng.uniform(0.0, 30.0)
            wishes.append(Wish(time_s=back_s, model=model, verb="RESTORE_MODEL" if whole else "RESTORE"))
    if rng.random() < STARTS_AGAIN:
        wishes += [Wish(time_s=rng.uniform(20.0, busy_s), model=model, verb="START_AGAIN") for _ in range(3)]
    return wishes


_LENGTHS: Final = {
    Fault.CONTROL_PLANE_DOWN: (5.0, 40.0),
    Fault.DEPLOYER_PAUSED: (1.0, 25.0),
    Fault.DEPLOYER_CUT: (3.0, 25.0),
    Fault.MONITOR_CUT: (15.0, 80.0),
    Fault.BROKER_DOWN: (0.5, 10.0),
    Fault.HOST_CUT: (2.0, 15.0),
    Fault.PROXY_CUT: (3.0, 40.0),
    Fault.ACK_LOST: (5.0, 15.0),
    Fault.ACK_LATE: (5.0, 20.0),
    Fault.CLOCK_JUMP: (5.0, 60.0),
}


def _phase(world: World) -> Phase:
    return world.rng.choices(list(AWAITED_PHASES), weights=list(AWAITED_PHASES.values()))[0]


def _strikes(world: World, busy_s: float, trainings: tuple[Training, ...], *, long_silence: bool) -> list[Strike]:
    """Draw which faults this seed knows at all, then how often each of them strikes."""
    rng = world.rng
    everyday = [fault for fault in Fault if fault is not Fault.MONITOR_LONG_SILENCE]
    known = [fault for fault in everyday if world.chance(0.4)] if world.chance(0.92) else []
    strikes = []
    for fault in known:
        for _ in range(rng.choice((1, 1, 2))):
            length_s = world.between(*_LENGTHS.get(fault, (0.0, 0.0)))
            phase = _phase(world) if world.chance(WAITS_FOR_A_PHASE) else None
            begin_s = world.between(1.0, busy_s if phase is None else 0.5 * busy_s)
            if fault is Fault.CRASH_REGISTRY and phase is None:
                # There is little time between a registration and the end of its event's way.
                begin_s = rng.choice(trainings).time_s + world.between(1.0, 2.0)
            strikes.append(Strike(time_s=begin_s, fault=fault, length_s=length_s, phase=phase))
    if any(one.phase is Phase.HOLDING for one in strikes):
        # Nothing else brings a rollout there.
        length_s = world.between(45.0, 90.0)
        strikes.append(Strike(time_s=1.0, fault=Fault.MONITOR_CUT, length_s=length_s, phase=Phase.STEPPING))
    if long_silence:
        length_s = world.between(*LONG_SILENCE_S)
        strikes.append(Strike(time_s=2.0, fault=Fault.MONITOR_LONG_SILENCE, length_s=length_s, phase=Phase.STEPPING))
    return sorted(strikes, key=lambda strike: strike.time_s)
