"""One seed from beginning to end: everything is put together, struck by faults, healed, and looked at once more."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tidegate.contracts.topics import COMMANDS, MONITORING, REGISTRY, ROLLOUTS, TRAINING, VALIDATION
from tidegate.simulation import rest
from tidegate.simulation.bus import Bus
from tidegate.simulation.checker import Checker
from tidegate.simulation.deployer import Deployer
from tidegate.simulation.faults import Strikes
from tidegate.simulation.group import Group
from tidegate.simulation.invariants import Invariant
from tidegate.simulation.modelhost import ModelHost, System
from tidegate.simulation.monitor import Monitor
from tidegate.simulation.people import OnCall, People, Producer
from tidegate.simulation.plan import SERVERS_MAX, draw_plan
from tidegate.simulation.proxy import Proxy
from tidegate.simulation.registry import Registry
from tidegate.simulation.validator import Validator
from tidegate.simulation.world import START_S, Broken, World

LOOK_EVERY_S: Final = 3.0
# Longer than the deployer's looks at the model host are apart, so that it has heard of what is ready.
STILL_LOOKS: Final = 2
CALM_LOOKS: Final = 2
REST_S: Final = 700.0
TOPICS: Final = (TRAINING, REGISTRY, VALIDATION, COMMANDS, ROLLOUTS, MONITORING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a seed ended; ``broken`` names the invariant that does not hold, "" for none."""

    seed: int
    broken: str
    told: str
    lines: tuple[str, ...]
    coverage: Counter[str]
    steps: int


class Simulation:
    """All parts of one seed."""

    def __init__(self, seed: int, *, is_told: bool = False) -> None:
        world = self.world = World(seed, is_told=is_told)
        plan = self.plan = draw_plan(world)
        checker = self.checker = Checker(world, plan.policies)
        self.bus = Bus(world, plan.partitions)
        for model in plan.models:
            self.bus.partition_of(model)
        self.system = System(world)
        self.host = ModelHost(world, self.system, checker)
        self.host.servers_max = plan.servers_max
        self.registry = Registry(world, self.bus, plan, checker)
        self.validator = Validator(world, self.bus, checker)
        self.monitor = Monitor(world, self.bus, checker)
        self.deployers = [
            Deployer(world, f"deployer-{letter}", bus=self.bus, host=self.host, checker=checker)
            for letter in "ab"[: plan.deployers]
        ]
        self.group = Group(world, self.bus, self.deployers)
        self.proxies = [
            Proxy(world, f"proxy-{number}", system=self.system, checker=checker, requests=plan.requests)
            for number in range(1, plan.proxies + 1)
        ]
        for proxy in self.proxies:
            proxy.control = self.group
            proxy.log = self.monitor.log
        checker.facts.proxies = [*self.proxies]
        self.people = People(self)
        self.strikes = Strikes(self)
        self.services = [self.registry, self.validator, self.monitor, *self.deployers]

    def run(self) -> None:
        """Let everything happen.

        Raises:
            Broken: An invariant does not hold.

        """
        self._schedule()
        world = self.world
        while world.now_s < START_S + self.plan.chaos_s:
            world.step()
        self._heal()
        give_up_s = world.now_s + REST_S + max(policy.rollout.deadline_s for policy in self.plan.policies.values())
        still = 0
        while still < STILL_LOOKS + CALM_LOOKS:
            look_s = world.now_s + LOOK_EVERY_S
            while world.now_s < look_s:
                world.step()
            unrest = rest.unrest(self)
            still = 0 if unrest else still + 1
            if unrest and world.now_s > give_up_s:
                raise Broken(Invariant.COMES_TO_REST, "; ".join(unrest))
            if still == STILL_LOOKS:
                # No fault is left to excuse anything.
                rest.check_arms(self)
                self.checker.requests.is_lenient = False
        rest.check_end(self)
        self._count_ends()

    def _schedule(self) -> None:
        world, plan = self.world, self.plan
        world.say(
            "seed",
            "%d: %d proxies, %d deployers, %d partitions, models %s",
            world.seed,
            plan.proxies,
            plan.deployers,
            plan.partitions,
            ", ".join(plan.models),
        )
        for process in (self.host, *self.services, *self.proxies):
            process.skew_s = world.between(-1.0, 1.0) if world.chance(0.3) else 0.0
            world.later(world.between(0.0, 1.0), process.start)
        producer = Producer(self)
        for training in plan.trainings:
            world.later(1.0 + training.time_s, _call(producer.publish, training))
        for wish in plan.wishes:
            world.later(wish.time_s, _call(self.people.wish, wish))
        self.strikes.begin()
        if plan.approver_s:
            OnCall(self, plan.approver_s).begin()

    def _heal(self) -> None:
        """End all faults: what is away comes back."""
        self.world.say("world", "all faults end")
        self.strikes.end()
        now_s = self.world.now_s
        self.bus.down_until_s = now_s
        # Somebody made room.
        self.host.servers_max = SERVERS_MAX
        for process in (self.host, *self.services, *self.proxies):
            process.cut_until_s = min(process.cut_until_s, now_s)
            process.down_until_s = min(process.down_until_s, now_s)
        for deployer in self.deployers:
            deployer.host_cut_until_s = now_s
            deployer.crash_after_commit = 0.0
        for proxy in self.proxies:
            proxy.ack_lost_until_s = proxy.ack_late_until_s = now_s

    def _count_ends(self) -> None:
        for life in self.checker.facts.lives.values():
            end = life.endings[0] if life.endings else f"none, it is {life.phases[-1]}"
            self.world.count(f"end: {end}")
        self.world.coverage["request: all"] += self.checker.requests.count


def _call(action: Callable[[Any], None], value: Any) -> Callable[[], None]:
    return lambda: action(value)


def simulate(seed: int, *, is_told: bool = False) -> Result:
    """Run one seed; the same seed always gives the same result."""
    simulation = Simulation(seed, is_told=is_told)
    world = simulation.world
    broken, told = "", ""
    try:
        simulation.run()
    except Broken as error:
        broken, told = error.invariant, str(error)
        world.say("checker", "%s", told)
    except Exception as error:  # noqa: BLE001  (whatever it is, it belongs to this seed)
        broken = Invariant.NO_ERROR
        told = f"{broken}: {traceback.format_exception(error)[-2].strip()}: {error!r}"
        world.say("checker", "%s", told)
    return Result(
        seed=seed,
        broken=broken,
        told=told,
        lines=tuple(world.lines or ()),
        coverage=world.coverage,
        steps=world.steps,
    )
