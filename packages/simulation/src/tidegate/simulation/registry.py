"""The registry's shell as a model: a database with transactions and an outbox around the real version rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import Message

from tidegate.contracts.codec import Event, derived_event_id
from tidegate.contracts.names import format_version
from tidegate.contracts.topics import ROLLOUTS, TRAINING, VALIDATION
from tidegate.registry.catalog.aliases import AliasMove, moves_of
from tidegate.registry.numbering import versioning
from tidegate.registry.numbering.comparison import PairedNumbers
from tidegate.registry.numbering.signatures import SignatureSpec, TensorSpec
from tidegate.registry.numbering.versioning import (
    Change,
    Comparison,
    Contender,
    DecisionInput,
    Fingerprint,
    Gate,
    Verdict,
    VersionNumber,
    VersionNumberDecision,
)
from tidegate.simulation.bus import RETRY_S, Bus, Consumer
from tidegate.simulation.checker import Checker
from tidegate.simulation.plan import Kind, Plan, Training
from tidegate.simulation.world import Process, World
from tidegate.v1.events_pb2 import (
    AliasMoved,
    ModelBlessed,
    ModelRegistered,
    RegistrationDuplicate,
    TrainingCompleted,
    ValidationFailed,
    ValidationPassed,
    VersionApproved,
)
from tidegate.v1.rollout_events_pb2 import RolloutStep
from tidegate.v1.values_pb2 import Artifact, Version

SOURCE: Final = "tidegate/registry"
EXAMPLES: Final = 1_000
# How many examples only the candidate, and only the baseline, gets right.
_RIGHT: Final = {Kind.BETTER: (90, 40), Kind.WORSE: (40, 90)}


@dataclass(kw_only=True, slots=True)
class Row:
    """A version in the database."""

    number: VersionNumber
    fingerprint: Fingerprint
    signature: SignatureSpec
    verdict: Verdict
    validation: str = "unknown"

    @property
    def contender(self) -> Contender:
        """Return it as the rules see it."""
        return Contender(version=self.number, fingerprint=self.fingerprint, signature=self.signature)


@dataclass(kw_only=True, slots=True)
class OutboxRow:
    """An event that is published if and only if its transaction committed."""

    event: Event
    is_published: bool = False


@dataclass(kw_only=True, slots=True)
class Database:
    """What survives every crash of the registry."""

    versions: dict[str, list[Row]] = field(default_factory=dict)
    consumed: set[str] = field(default_factory=set)
    outbox: list[OutboxRow] = field(default_factory=list)
    sequences: dict[tuple[str, str], int] = field(default_factory=dict)
    aliases: dict[tuple[str, str], Version] = field(default_factory=dict)

    def next_sequence(self, model: str) -> int:
        """Count up the sequence of a model's events."""
        self.sequences[model, SOURCE] = self.sequences.get((model, SOURCE), 0) + 1
        return self.sequences[model, SOURCE]

    def advance(self, model: str, source: str, sequence: int) -> bool:
        """Remember the last sequence seen of a source; False if this one is older."""
        if sequence < self.sequences.get((model, source), 0):
            return False
        self.sequences[model, source] = sequence
        return True


class Registry(Process):
    """Handlers that are idempotent by event id, and the relay."""

    def __init__(self, world: World, bus: Bus, plan: Plan, checker: Checker) -> None:
        super().__init__(world, "registry")
        self.bus = bus
        self.plan = plan
        self.checker = checker
        self.database = Database()
        self.is_marking_early = False
        self._relaying = False
        self.consumer: Consumer | None = None

    def on_start(self) -> None:
        """Consume from what is committed, and look into the outbox."""
        self._relaying = False
        self.consumer = Consumer(self, self.bus, (TRAINING.name, VALIDATION.name, ROLLOUTS.name), self._handle)
        self.every(1.0, self._relay)

    def approve(self, model: str, number: Version, actor: str) -> None:
        """Let a person consent to a version."""
        approved = VersionApproved(model=model, version=number, actor=actor)
        name = f"approval|{model}|{format_version(number)}"
        if name in self.database.consumed:
            return
        self.database.consumed.add(name)
        self._add(approved, name)
        self.checker.versions.on_approved(model, format_version(number))
        self._relay()

    def was_consumed(self, event_id: str) -> bool:
        """Say whether an event was handled before."""
        return event_id in self.database.consumed

    def _handle(self, event: Event, done: Callable[[], None]) -> None:
        match event.message:
            case TrainingCompleted():
                self._on_training(event, event.message, done)
            case ValidationPassed() | ValidationFailed() | ModelBlessed() | RolloutStep():
                self._once(event)
                done()
            case _:
                done()

    def _on_training(self, event: Event, message: TrainingCompleted, done: Callable[[], None]) -> None:
        if self.was_consumed(event.id):
            done()
            return
        training = self.plan.trainings[int(message.request_id)]
        rows = tuple(self.database.versions.get(training.model, ()))
        given = decision_input(training, rows)
        decision = versioning.decide(given)

        def commit() -> None:
            if self.was_consumed(event.id):
                done()
                return
            if tuple(self.database.versions.get(training.model, ())) != rows:
                self._on_training(event, message, done)  # the line moved meanwhile: decide again
                return
            self._commit(event, training, given, decision)
            self.later(self.world.between(0.0, 0.02), self._relay)
            self.later(self.world.between(0.0, 0.05), done)

        self.later(self.world.between(0.05, 0.6), commit)

    def _commit(self, event: Event, training: Training, given: DecisionInput, decision: VersionNumberDecision) -> None:
        self.database.consumed.add(event.id)
        number = Version(major=decision.version.major, minor=decision.version.minor, pipeline=decision.version.pipeline)
        self.say("%s %s: %s", training.model, decision.rule, decision.reason)
        if decision.change is Change.NONE:
            duplicate = RegistrationDuplicate(model=training.model, version=number, request_id=str(training.number))
            self._add(duplicate, event.id)
            return
        digest = given.fingerprint.weights_digest
        row = Row(
            number=decision.version,
            fingerprint=given.fingerprint,
            signature=given.signature,
            verdict=decision.numbers.verdict,
        )
        self.checker.versions.on_registered(training.model, str(decision.version), given, decision, training.quality)
        self.database.versions.setdefault(training.model, []).append(row)
        registered = ModelRegistered(
            model=training.model,
            version=number,
            artifact=Artifact(uri=f"s3://models/{digest}", digest=digest, size_bytes=1, format="onnx"),
            policy=self.plan.policies[training.model],
            policy_revision=1,
            reason=decision.reason,
        )
        self._add(registered, event.id)

    def _add(self, message: Message, cause: str, number: int = 0) -> None:
        model = str(getattr(message, "model", ""))
        event_id = derived_event_id(message.DESCRIPTOR.name, cause, number)
        sequence = self.database.next_sequence(model)
        self.database.outbox.append(
            OutboxRow(
                event=Event(
                    message=message,
                    id=event_id,
                    source=SOURCE,
                    time=self.world.time(),
                    subject=model,
                    correlation_id=cause,
                    causation_id=cause,
                    sequence=sequence,
                )
            )
        )

    def _once(self, event: Event) -> None:
        if self.was_consumed(event.id):
            return
        self.database.consumed.add(event.id)
        if event.sequence and not self.database.advance(event.subject, event.source, event.sequence):
            return
        match event.message:
            case RolloutStep():
                self._move(event, event.message)
            case ValidationFailed() | ModelBlessed() as message:
                state = "failed" if isinstance(message, ValidationFailed) else "blessed"
                for row in self.database.versions.get(message.model, ()):
                    if str(row.number) == format_version(message.version):
                        row.validation = state

    def _move(self, event: Event, step: RolloutStep) -> None:
        aliases = self.database.aliases
        moves: list[AliasMove] = moves_of(
            step, stable=aliases.get((step.model, "stable")), candidate=aliases.get((step.model, "candidate"))
        )
        for number, move in enumerate(moves):
            previous = aliases.pop((move.model, move.alias), None)
            if move.version is not None:
                aliases[move.model, move.alias] = move.version
            moved = AliasMoved(
                model=move.model, alias=move.alias, version=move.version, previous_version=previous, actor=SOURCE
            )
            self._add(moved, event.id, number)

    def _relay(self) -> None:
        waiting = [row for row in self.database.outbox if not row.is_published]
        if not waiting or self._relaying:
            return
        if not self.bus.is_reachable(self):
            self.later(RETRY_S, self._relay)
            return
        self._relaying = True
        row = waiting[0]
        if self.is_marking_early:
            row.is_published = True

        def mark() -> None:
            self._relaying = False
            row.is_published = True
            self._relay()

        # A crash before the mark publishes the row again, under the same id.
        self.later(self.world.between(0.001, 0.05), lambda: self.bus.send(self, [row.event], mark))


def decision_input(training: Training, rows: tuple[Row, ...]) -> DecisionInput:
    """Return what the rules decide from: the same choice of baseline and twin as in the registry's catalog."""
    fingerprint = _fingerprint(training, rows)
    twin = next((row for row in rows if row.fingerprint == fingerprint), None)
    newest = max((row.number.major for row in rows), default=0)
    major = 1 if training.kind is Kind.OLD_LINE and rows else newest
    line = sorted((row for row in rows if row.number.major == major), key=lambda row: row.number, reverse=True)
    good = [row for row in line if row.verdict is not Verdict.WORSE and row.validation != "failed"]
    baseline = next(iter(good or line), None)
    signature = line[0].signature if line else SignatureSpec()
    if training.kind is Kind.BREAKING or not line:
        signature = _signature(training.number)
    return DecisionInput(
        fingerprint=fingerprint,
        signature=signature if twin is None else twin.signature,
        gate=Gate(metric="accuracy"),
        comparison=_comparison(training),
        newest_major=newest,
        line_top=line[0].number if line else None,
        baseline=None if baseline is None else baseline.contender,
        twin=None if twin is None else twin.contender,
    )


def _fingerprint(training: Training, rows: tuple[Row, ...]) -> Fingerprint:
    if training.kind is Kind.TWIN and rows:
        return rows[-1].fingerprint
    return Fingerprint(
        weights_digest=f"sha256:{training.model}-{training.number}",
        signature_digest=str(training.number),
        pipeline_digest="p",
        config_digest="c",
        code_commit="abc",
        data_digests=("d",),
    )


def _signature(number: int) -> SignatureSpec:
    return SignatureSpec(
        inputs=(TensorSpec(name=f"x{number}", datatype="FP32", shape=(-1,)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
        target_id="t",
    )


def _comparison(training: Training) -> Comparison:
    wins, losses = _RIGHT.get(training.kind, (60, 60))
    return Comparison(
        overall=PairedNumbers(
            metric="accuracy",
            example_count=EXAMPLES,
            positive_count=EXAMPLES // 2,
            candidate_value=(700 + wins) / EXAMPLES,
            baseline_value=(700 + losses) / EXAMPLES,
            candidate_only_right=wins,
            baseline_only_right=losses,
        )
    )
