"""People: producers who publish, operators who want things, and (in most seeds) somebody on call."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from tidegate.contracts.codec import Event, derived_event_id
from tidegate.contracts.topics import ROLLOUTS
from tidegate.deployer.state import Number, Phase
from tidegate.simulation.plan import Training, Wish
from tidegate.v1.events_pb2 import TrainingCompleted
from tidegate.v1.rollout_events_pb2 import RolloutCommand, RolloutStep
from tidegate.v1.values_pb2 import Version

if TYPE_CHECKING:
    from tidegate.simulation.simulation import Simulation

RETRY_S: Final = 2.0
SOURCE: Final = "tidegate/deployer"


class Producer:
    """Publishes training runs."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._numbers = {id(one): number for number, one in enumerate(simulation.plan.trainings)}

    def publish(self, training: Training) -> None:
        """Publish until the broker has it."""
        simulation = self._simulation
        world = simulation.world
        if world.now_s < simulation.bus.down_until_s:
            world.later(RETRY_S, lambda: self.publish(training))
            return
        number = self._numbers[id(training)]
        world.say("producer", "%s: a %s training run", training.model, training.kind)
        event_id = derived_event_id("TrainingCompleted", f"{training.model}-{number}")
        simulation.bus.append(
            [
                Event(
                    message=TrainingCompleted(model=training.model, request_id=str(number)),
                    id=event_id,
                    source="producer",
                    time=world.time(),
                    subject=training.model,
                    correlation_id=event_id,
                )
            ]
        )


class People:
    """Send commands about what they last heard of a model."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._requests = 0
        # Of its own, so that what else a seed means stays as it was.
        self._rng = random.Random(f"people {simulation.world.seed}")  # noqa: S311  (chance that must come again)

    def wish(self, wish: Wish) -> None:
        """Want something, whether it makes sense or not."""
        world = self._simulation.world
        known = self._known(wish.model)
        if wish.verb == "APPROVE_VERSION":
            self.approve(wish.model, world.rng.choice(known)) if known else None
            return
        if wish.verb == "START_AGAIN":
            self._start_again(wish.model)
            return
        if wish.verb in {"RETIRE", "RESTORE", "RETIRE_MODEL", "RESTORE_MODEL"}:
            self._retire(wish, known)
            return
        number = world.rng.choice(known) if known and wish.verb in {"START", "ROLLBACK"} else None
        if wish.verb == "ROLLBACK" and world.chance(0.5):
            number = None
        self.command(wish.model, wish.verb, number=number)

    def _start_again(self, model: str) -> None:
        """Try the newest version that is blessed and not stable."""
        state = self._simulation.checker.facts.states.get(model)
        tried = [one.number for one in state.versions if one.blessed and one.number != state.stable] if state else []
        if tried:
            self.command(model, "START", number=max(tried))

    def _retire(self, wish: Wish, known: list[Number]) -> None:
        """Take something out of service, or bring it back: mostly what is retired, if anything is."""
        state = self._simulation.checker.facts.states.get(wish.model)
        retired = [one.number for one in state.versions if one.retired] if state is not None else []
        verb, _, whole = wish.verb.partition("_")
        if whole:
            self.command(wish.model, verb)
        elif known:
            meant = retired if retired and verb == "RESTORE" else known
            self.command(wish.model, verb, number=self._rng.choice(meant))

    def command(self, model: str, verb: str, *, number: Number | None = None) -> None:
        """Send a command, about the rollout that people heard of last."""
        self._requests += 1
        step = self.last_step(model)
        self._send(
            RolloutCommand(
                request_id=f"request-{self._requests}",
                verb=RolloutCommand.Verb.Value(f"VERB_{verb.removesuffix('_FULL')}"),
                model=model,
                rollout_id=step.rollout_id if step is not None else "",
                version=None if number is None else version_of(number),
                mode=RolloutCommand.MODE_FULL if verb.endswith("_FULL") else RolloutCommand.MODE_NEXT,
                actor="ana",
            )
        )

    def approve(self, model: str, number: Number) -> None:
        """Consent to a version at the registry; tried again while it is away."""
        registry = self._simulation.registry
        if registry.is_alive and not registry.is_paused:
            self._simulation.world.say("people", "approve %s@%s", model, number)
            registry.approve(model, version_of(number), "ana")
        else:
            self._simulation.world.later(RETRY_S, lambda: self.approve(model, number))

    def last_step(self, model: str) -> RolloutStep | None:
        """Return the newest step that anybody can read."""
        log = self._simulation.bus.log(ROLLOUTS.name, self._simulation.bus.partition_of(model))
        steps = (event.message for event in reversed(log) if event.subject == model)
        return next((message for message in steps if isinstance(message, RolloutStep)), None)

    def _known(self, model: str) -> list[Number]:
        rows = self._simulation.registry.database.versions.get(model, ())
        return [Number(row.number.major, row.number.minor, row.number.pipeline) for row in rows]

    def _send(self, command: RolloutCommand) -> None:
        """Send through a deployer that lives and reaches the broker; the same request is sent until one takes it."""
        simulation = self._simulation
        world = simulation.world
        takers = [one for one in simulation.deployers if one.is_alive and not one.is_paused]
        if not any(simulation.bus.is_reachable(one) for one in takers):
            world.later(RETRY_S, lambda: self._send(command))
            return
        verb = RolloutCommand.Verb.Name(command.verb).removeprefix("VERB_")
        world.say("people", "%s %s %s", command.request_id, verb, command.rollout_id or command.model)
        event_id = derived_event_id("RolloutCommand", command.request_id)
        event = Event(
            message=command,
            id=event_id,
            source=SOURCE,
            time=world.time(),
            subject=command.model,
            correlation_id=event_id,
        )
        # Who is not told of success sends again.
        simulation.bus.append([event, event] if world.chance(0.3) else [event])


class OnCall:
    """Looks now and then, and answers what waits for a person."""

    def __init__(self, simulation: Simulation, period_s: float) -> None:
        self._simulation = simulation
        self._period_s = period_s

    def begin(self) -> None:
        """Look from now on."""
        self._simulation.world.later(self._period_s, self._look)

    def _look(self) -> None:
        simulation = self._simulation
        simulation.world.later(self._period_s, self._look)
        for model in simulation.plan.models:
            state = simulation.checker.facts.states.get(model)
            rollout = state.rollout if state is not None else None
            if rollout is None:
                continue
            if rollout.phase is Phase.AWAITING_APPROVAL:
                if simulation.world.chance(0.5):
                    simulation.people.approve(model, rollout.candidate)
                else:
                    simulation.people.command(model, "APPROVE")
            elif rollout.phase is Phase.PAUSED:
                is_wise = rollout.breached_guard and simulation.world.chance(0.7)
                simulation.people.command(model, "ABORT" if is_wise else "RESUME")


def version_of(number: Number) -> Version:
    """Return the contract's version of ``number``."""
    return Version(major=number.major, minor=number.minor, pipeline=number.pipeline)
