"""The validator's shell as a model: trials that take time around the real verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf.message import Message

from tidegate.contracts.codec import Event, derived_event_id
from tidegate.contracts.names import format_version
from tidegate.contracts.topics import REGISTRY, VALIDATION
from tidegate.simulation.bus import Bus, Consumer
from tidegate.simulation.checker import Checker
from tidegate.simulation.plan import Quality
from tidegate.simulation.world import Process, World
from tidegate.v1.events_pb2 import ModelBlessed, ModelRegistered, ValidationFailed, ValidationPassed
from tidegate.validator.verdict import (
    Answer,
    ArtifactSeen,
    Demands,
    OutputSeen,
    OutputWanted,
    RuntimeDemand,
    RuntimeSeen,
    Verdict,
    judge,
    judge_artifact,
)

SOURCE: Final = "tidegate/validator"


class Validator(Process):
    """Tries every registered version once; a redelivered event repeats the same ids."""

    def __init__(self, world: World, bus: Bus, checker: Checker) -> None:
        super().__init__(world, "validator")
        self.bus = bus
        self.checker = checker
        self.consumer: Consumer | None = None
        self._decided: set[str] = set()

    def on_start(self) -> None:
        """Read back what was decided before, then go on."""
        self._decided = {event.causation_id for event in self.bus.topic(VALIDATION.name)}
        self.consumer = Consumer(self, self.bus, (REGISTRY.name,), self._handle)

    def _handle(self, event: Event, done: Callable[[], None]) -> None:
        message = event.message
        if not isinstance(message, ModelRegistered) or event.id in self._decided:
            done()
            return
        quality = self.checker.facts.quality(message.model, format_version(message.version))

        def tell() -> None:
            verdict = verdict_on(message.artifact.digest, quality)
            self.say(
                "%s@%s %s",
                message.model,
                format_version(message.version),
                "blessed" if verdict.is_blessed else ", ".join(check.code for check in verdict.failures),
            )

            def remember() -> None:
                self._decided.add(event.id)
                done()

            self.bus.send(
                self, [_event(event, one, place) for place, one in enumerate(_told(message, verdict))], remember
            )

        self.later(self.world.between(0.2, 4.0), tell)


def verdict_on(digest: str, quality: Quality) -> Verdict:
    """Return the real verdict on what the sandbox would have seen."""
    artifact = judge_artifact(ArtifactSeen(digest_wanted=digest, digest=digest, format_wanted="onnx", format="onnx"))
    answer = Answer(
        outputs=(OutputSeen(name="y", datatype="FP32", shape=(1,), is_finite=quality.is_valid),), latency_ms=2.0
    )
    seen = RuntimeSeen(runtime="kserve-onnx", load_time_ms=5.0, sandbox="limits", answers=(answer,))
    demands = Demands(
        outputs=(OutputWanted(name="y", datatype="FP32", shape=(-1,)),),
        golden_atol=1e-5,
        min_sandbox="limits",
        runtimes=(RuntimeDemand(runtime="kserve-onnx"),),
    )
    return judge(artifact, demands, [seen], {})


def _told(message: ModelRegistered, verdict: Verdict) -> list[Message]:
    if not verdict.is_blessed:
        return [ValidationFailed(model=message.model, version=message.version)]
    blessed = ModelBlessed(
        model=message.model, version=message.version, policy=message.policy, policy_revision=message.policy_revision
    )
    return [ValidationPassed(model=message.model, version=message.version), blessed]


def _event(cause: Event, message: Message, place: int) -> Event:
    return Event(
        message=message,
        id=derived_event_id(message.DESCRIPTOR.name, cause.id),
        source=SOURCE,
        time=cause.time,
        subject=cause.subject,
        correlation_id=cause.correlation_id,
        causation_id=cause.id,
        sequence=2 * cause.sequence + place,
    )
