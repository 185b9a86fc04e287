"""What must be so when nothing happens any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidegate.contracts.names import format_version
from tidegate.contracts.topics import COMMANDS, REGISTRY, VALIDATION
from tidegate.deployer.state import Phase
from tidegate.modelhost.lifecycle import State
from tidegate.simulation.invariants import Invariant
from tidegate.simulation.world import Broken
from tidegate.v1.events_pb2 import ModelBlessed, ModelRegistered, VersionApproved
from tidegate.v1.rollout_events_pb2 import RolloutCommand

if TYPE_CHECKING:
    from tidegate.deployer.state import ModelState
    from tidegate.simulation.simulation import Simulation

WAITS_FOR_A_PERSON: Final = frozenset({Phase.PAUSED, Phase.AWAITING_APPROVAL})


def unrest(simulation: Simulation) -> list[str]:
    """Return what still has to happen; empty = all is at rest."""
    found = []
    consumers = (simulation.registry, simulation.validator, simulation.monitor)
    found += [f"{one.name} is down" for one in (*consumers, *simulation.proxies) if not one.is_alive]
    waiting = sum(not row.is_published for row in simulation.registry.database.outbox)
    if waiting:
        found.append(f"{waiting} rows wait in the outbox")
    for model in simulation.plan.models:
        state = simulation.checker.facts.states.get(model)
        if state is None:
            found.append(f"{model} is unknown to the deployer")
        else:
            found += [f"{model}: {what}" for what in _unrest_of(simulation, model, state)]
    return found


def _unrest_of(simulation: Simulation, model: str, state: ModelState) -> list[str]:
    found = []
    rollout = state.rollout
    if rollout is not None and (rollout.phase not in WAITS_FOR_A_PERSON or simulation.plan.approver_s):
        found.append(f"{rollout.rollout_id} is {rollout.phase} since {rollout.began_s:.0f}")
    if not state.route.acknowledged:
        found.append(f"route {state.route.epoch}.{state.route.revision} is not acknowledged")
    key = (state.route.epoch, state.route.revision)
    if state.route.lines:
        found += [
            f"{proxy.name} has {proxy.held.get(model)}, wanted is {key}"
            for proxy in simulation.proxies
            if proxy.held.get(model) != key
        ]
    found += _unrest_of_servers(simulation, model, state)
    found += _unheard(simulation, model, state)
    aliases = simulation.registry.database.aliases
    alias = aliases.get((model, "stable"))
    settling = rollout is not None and rollout.has_traffic
    if not settling and state.stable is not None and (alias is None or format_version(alias) != str(state.stable)):
        found.append(f"the alias stable is {alias and format_version(alias)}, stable is {state.stable}")
    return found


def _unrest_of_servers(simulation: Simulation, model: str, state: ModelState) -> list[str]:
    servers = simulation.host.servers
    wanted = {f"{model}@{number}" for number in state.wanted_servers()}
    running = {server_id for server_id, server in servers.items() if server.spec.model == model}
    found = [f"{server_id} runs, nobody wants it" for server_id in sorted(running - wanted)]
    for number in state.wanted_servers():
        server = servers.get(f"{model}@{number}")
        is_up = server is not None and server.state is State.READY
        if not is_up and simulation.checker.facts.quality(model, str(number)).is_loadable:
            found.append(f"{model}@{number} is wanted, but not ready")
    return found


def _unheard(simulation: Simulation, model: str, state: ModelState) -> list[str]:
    """Return acknowledged facts that had no effect."""
    bus = simulation.bus
    partition = bus.partition_of(model)
    found = []
    for topic in (REGISTRY.name, VALIDATION.name, COMMANDS.name):
        for event in bus.log(topic, partition):
            message = event.message
            if event.subject != model:
                continue
            match message:
                case RolloutCommand() if message.request_id not in state.request_ids:
                    found.append(f"{message.request_id} had no effect")
                case ModelRegistered() | ModelBlessed() | VersionApproved():
                    version = format_version(message.version)
                    known = next((one for one in state.versions if str(one.number) == version), None)
                    if known is None:
                        found.append(f"{version} is registered, the deployer does not know it")
                    elif isinstance(message, ModelBlessed) and not known.blessed:
                        found.append(f"{version} is blessed, the deployer does not know it")
                    elif isinstance(message, VersionApproved) and not known.approved:
                        found.append(f"{version} is approved, the deployer does not know it")
    registered = {
        format_version(event.message.version)
        for event in bus.log(REGISTRY.name, partition)
        if isinstance(event.message, ModelRegistered) and event.subject == model
    }
    rows = simulation.registry.database.versions.get(model, ())
    found += [f"{row.number} is in the database, not on the topic" for row in rows if str(row.number) not in registered]
    trainings = sum(training.model == model for training in simulation.plan.trainings)
    answered = sum(
        event.type in {"ModelRegistered", "RegistrationDuplicate"} and event.subject == model
        for event in {event.id: event for event in bus.log(REGISTRY.name, partition)}.values()
    )
    if answered != trainings:
        found.append(f"{answered} of {trainings} training runs were answered")
    return found


def check_arms(simulation: Simulation) -> None:
    """Check that whoever gets traffic at a proxy answers where that proxy looks for it."""
    for proxy in simulation.proxies:
        for model, table in proxy.tables.items():
            for arm in (arm for line in table.lines for arm in line.arms if arm.weight_millionths):
                server_id = f"{model}@{format_version(arm.version)}"
                endpoint = proxy.clusters.get(server_id, b"").decode()
                if not simulation.system.is_answering(endpoint):
                    told = f"{proxy.name} sends to {server_id} at {endpoint or 'no endpoint'}, where nobody answers"
                    raise Broken(Invariant.ARMS_ARE_ANSWERED, told)


def check_end(simulation: Simulation) -> None:
    """Check what has become of every rollout."""
    for rollout_id, life in simulation.checker.facts.lives.items():
        state = simulation.checker.facts.states[life.model]
        runs = state.rollout is not None and state.rollout.rollout_id == rollout_id
        if len(life.endings) != (0 if runs else 1):
            raise Broken(Invariant.ENDS_ONCE, f"{rollout_id} went through {', '.join(life.phases)}")
        if life.endings and life.phases[-1] is not life.endings[0]:
            raise Broken(Invariant.ENDS_ONCE, f"{rollout_id} went on to {life.phases[-1]}")
