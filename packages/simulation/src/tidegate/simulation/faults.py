"""How each fault strikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, assert_never

from tidegate.contracts.topics import COMMANDS, TRAINING
from tidegate.simulation.plan import Fault, Strike

if TYPE_CHECKING:
    from tidegate.deployer.state import Phase
    from tidegate.simulation.deployer import Deployer
    from tidegate.simulation.simulation import Simulation
    from tidegate.simulation.world import Process

# How long after the beginning of its phase a fault strikes, at most: some phases are short.
AMBUSH_S: Final = (0.02, 0.2, 2.0)


class Strikes:
    """The faults of a seed: at their time, or soon after a rollout enters the phase that they wait for."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._waiting: list[Strike] = []
        self._is_over = False

    def begin(self) -> None:
        """Let them happen from now on."""
        self._simulation.checker.facts.on_phase = self._on_phase
        for one in self._simulation.plan.strikes:
            self._simulation.world.later(one.time_s, self._striker(one))

    def end(self) -> None:
        """Let no more happen."""
        self._is_over = True

    def _striker(self, one: Strike) -> Callable[[], None]:
        return lambda: self._strike(one) if one.phase is None else self._waiting.append(one)

    def _on_phase(self, phase: Phase) -> None:
        world = self._simulation.world
        due = [one for one in self._waiting if one.phase is phase]
        if due:
            # One for each time that the phase is entered.
            self._waiting.remove(due[0])
            world.later(world.between(0.0, world.rng.choice(AMBUSH_S)), lambda: self._strike(due[0]))

    def _strike(self, one: Strike) -> None:
        """Let a fault happen; one that finds nothing to strike counts as not happened."""
        simulation = self._simulation
        if self._is_over or not _is_done(simulation, one):
            return
        simulation.world.count(f"fault: {one.fault}")
        simulation.world.say("fault", "%s%s", one.fault, f" ({one.length_s:.1f} s)" if one.length_s else "")
        for state in simulation.checker.facts.states.values():
            if state.rollout is not None:
                simulation.world.count(f"struck: {one.fault} in {state.rollout.phase}")


def _is_done(simulation: Simulation, one: Strike) -> bool:  # noqa: C901, PLR0911, PLR0912  (one case a fault)
    world = simulation.world
    until_s = world.now_s + one.length_s
    match one.fault:
        case Fault.CRASH_REGISTRY:
            return _kill(simulation.registry)
        case Fault.CRASH_VALIDATOR:
            return _kill(simulation.validator)
        case Fault.CRASH_DEPLOYER:
            for deployer in simulation.deployers:
                deployer.crash_after_commit = 0.05
            return _kill(_owner(simulation))
        case Fault.CRASH_MONITOR:
            return _kill(simulation.monitor)
        case Fault.CRASH_HOST:
            return _kill(simulation.host)
        case Fault.CONTROL_PLANE_DOWN:
            for service in simulation.services:
                service.down_until_s = until_s
                service.crash("killed with the whole control plane")
            return True
        case Fault.DEPLOYER_PAUSED:
            _owner(simulation).paused_until_s = until_s
            return True
        case Fault.DEPLOYER_CUT:
            _owner(simulation).cut_until_s = until_s
            return True
        case Fault.HANDOVER:
            return simulation.group.hand_over()
        case Fault.MONITOR_CUT | Fault.MONITOR_LONG_SILENCE:
            simulation.monitor.cut_until_s = until_s
            return True
        case Fault.BROKER_DOWN:
            simulation.bus.down_until_s = until_s
            return True
        case Fault.REBALANCE:
            for service in (simulation.registry, simulation.validator, simulation.monitor):
                if service.is_alive and service.consumer is not None:
                    service.consumer.rebalance()
            return True
        case Fault.HOST_CUT:
            for deployer in simulation.deployers:
                deployer.host_cut_until_s = until_s
            return True
        case Fault.SERVER_DIES:
            return _kill_server(simulation)
        case Fault.PROXY_DIES:
            return _kill(world.rng.choice(simulation.proxies))
        case Fault.PROXY_CUT:
            world.rng.choice(simulation.proxies).cut_until_s = until_s
            return True
        case Fault.ACK_LOST:
            world.rng.choice(simulation.proxies).ack_lost_until_s = until_s
            return True
        case Fault.ACK_LATE:
            world.rng.choice(simulation.proxies).ack_late_until_s = until_s
            return True
        case Fault.TRAINING_TWICE:
            return _send_again(simulation, TRAINING.name)
        case Fault.COMMAND_TWICE:
            return _send_again(simulation, COMMANDS.name)
        case Fault.CLOCK_JUMP:
            world.rng.choice(simulation.proxies).clock_off_s = world.between(-one.length_s, one.length_s)
            return True
        case _:
            assert_never(one.fault)


def _owner(simulation: Simulation) -> Deployer:
    return simulation.group.owner or simulation.deployers[0]


def _kill(process: Process) -> bool:
    was_alive = process.is_alive
    process.crash("killed")
    return was_alive


def _kill_server(simulation: Simulation) -> bool:
    running = list(simulation.system.by_endpoint.values())
    if not running:
        return False
    victim = simulation.world.rng.choice(running)
    simulation.checker.versions.on_died(victim.server_id)
    simulation.system.end(victim)
    simulation.world.say("system", "%s dies", victim.server_id)
    return True


def _send_again(simulation: Simulation, topic: str) -> bool:
    """Put an event of the past on its topic once more, under the same id."""
    events = list(simulation.bus.topic(topic))
    if not events or simulation.world.now_s < simulation.bus.down_until_s:
        return False
    simulation.bus.append([simulation.world.rng.choice(events)])
    return True
