"""How each fault strikes."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from tidegate.contracts.topics import COMMANDS, TRAINING
from tidegate.simulation.plan import Fault, Strike

if TYPE_CHECKING:
    from tidegate.simulation.deployer import Deployer
    from tidegate.simulation.simulation import Simulation
    from tidegate.simulation.world import Process


def strike(simulation: Simulation, one: Strike) -> None:
    """Let a fault happen; one that finds nothing to strike counts as not happened."""
    if _is_done(simulation, one):
        simulation.world.count(f"fault: {one.fault}")
        simulation.world.say("fault", "%s%s", one.fault, f" ({one.length_s:.1f} s)" if one.length_s else "")


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
    simulation.checker.on_died(victim.server_id)
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
