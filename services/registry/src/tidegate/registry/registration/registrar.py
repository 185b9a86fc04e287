"""One registration from end to end: check, fetch, compare, decide, store, and commit with its event."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Connection

from tidegate.contracts.codec import derived_event_id
from tidegate.contracts.names import is_model, parse_version, version_reference
from tidegate.core.disk import full_disk_is_unavailable
from tidegate.core.errors import Conflict, NotFound
from tidegate.registry.catalog.handled import RequestKey, mark_consumed, recall, remember, was_consumed
from tidegate.registry.catalog.outbox import Cause, add_event, next_sequence
from tidegate.registry.catalog.policies import read_policy
from tidegate.registry.catalog.versions import (
    LineState,
    StoredVersion,
    insert_version,
    read_line,
    read_version,
    read_version_by_id,
)
from tidegate.registry.catalog.wire import (
    digest_of,
    fingerprint_of,
    gate_from_wire,
    signature_from_wire,
)
from tidegate.registry.intake.artifacts import ArtifactIntake, Fetched
from tidegate.registry.intake.checks import missing_facts, shape_faults
from tidegate.registry.intake.evaluation_file import read_evaluation
from tidegate.registry.intake.mending import bring_back, fetch_files, mend, named_by
from tidegate.registry.intake.rejection import Rejected, rejected
from tidegate.registry.metrics import REGISTRATIONS
from tidegate.registry.numbering.evaluation import Evaluation, compare
from tidegate.registry.numbering.versioning import (
    Change,
    Comparison,
    DecisionInput,
    Fingerprint,
    decide,
)
from tidegate.registry.registration.announcement import Basis, Prepared, announce
from tidegate.registry.registration.turns import Turns
from tidegate.registry.store import Store
from tidegate.v1.events_pb2 import ModelRegistered, RegistrationDuplicate, TrainingCompleted
from tidegate.v1.policy_pb2 import Policy
from tidegate.v1.values_pb2 import Reason

EVENT_BYTES_MAX: Final = 800_000
TRIES_MAX: Final = 10
_NEW: Final = "new"
_DUPLICATE: Final = "duplicate"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """The answer: a version, new or (``duplicate``) one that exists."""

    version: StoredVersion
    duplicate: bool


class Registrar:
    """Registers versions, for the training topic and for gRPC alike."""

    def __init__(self, store: Store, intake: ArtifactIntake, *, work_dir: Path) -> None:
        self._store = store
        self._intake = intake
        self._work_dir = work_dir
        self._turns = Turns(store.engine)

    async def register(self, training: TrainingCompleted, cause: Cause) -> Registration:
        """Register a version; the same cause, and the same request_id and body, get the same answer.

        Raises:
            Rejected: The producer must change something; nothing was stored.
            AlreadyExists: The request_id came before with another body.
            Unavailable: Database or object store are away, or the disk is full; try again.

        """
        check_model(training.model)
        _refuse_if(shape_faults(training))
        key = _request_key(training)
        known = await self._store.read(lambda connection: _known(connection, training.model, key))
        if known is not None:
            await self._mend_if_lost(training, known.version)
            return await self._again(training, key, cause)
        policy, revision = await self._store.read(lambda connection: read_policy(connection, training.model))
        _refuse_if(missing_facts(training, policy.registration))
        with full_disk_is_unavailable(), self._fresh_folder() as folder:
            prepared = await self._prepare(training, policy, revision, Path(folder))
            async with self._turns.of(training.model):
                return await self._decide_and_commit(prepared, Path(folder), cause)

    async def _decide_and_commit(self, prepared: Prepared, folder: Path, cause: Cause) -> Registration:
        """Decide from the line as it is, and commit if it still is so; policies and verdicts move it without a turn."""
        for _ in range(TRIES_MAX):
            basis = await self._decide(prepared, folder)
            registered = await self._store_files(prepared, basis, cause)
            try:
                return await self._commit(prepared, basis, registered, cause)
            except Conflict as error:
                if error.code not in ("LINE_MOVED", "ROW_EXISTS"):
                    raise
        raise Conflict(f"the line of {prepared.training.model} moved {TRIES_MAX} times meanwhile", code="LINE_MOVED")

    def _fresh_folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(dir=self._work_dir, prefix="registration-")

    async def _mend_if_lost(self, training: TrainingCompleted, version: StoredVersion) -> None:
        if await self._intake.has_all(named_by(version.registered)):
            return
        with full_disk_is_unavailable(), self._fresh_folder() as folder:
            await mend(self._intake, version.registered, training, Path(folder))

    async def _again(self, training: TrainingCompleted, key: RequestKey, cause: Cause) -> Registration:
        """Answer a request that was answered before, and tell on the topic (once for each cause)."""

        def tell(connection: Connection) -> Registration:
            known = _known(connection, training.model, key)
            if known is None:
                raise Conflict("the request was forgotten", code="ROW_EXISTS")
            if not was_consumed(connection, cause.id):
                _add_duplicate(connection, training, known.version, cause)
                mark_consumed(connection, cause.id)
            return known

        return await self._store.write(tell)

    async def _prepare(self, training: TrainingCompleted, policy: Policy, revision: int, folder: Path) -> Prepared:
        artifact = await self._intake.fetch_artifact(training.artifact, folder, signature=training.signature)
        files = await fetch_files(self._intake, training, folder)
        evaluation = None
        if "evaluation_uri" in files:
            evaluation = await self._read_evaluation(files["evaluation_uri"], policy)
        return Prepared(
            training=training,
            policy=policy,
            policy_revision=revision,
            artifact=artifact,
            files=files,
            evaluation=evaluation,
            fingerprint=fingerprint_of(artifact.digest, training.signature, training.lineage),
        )

    async def _read_evaluation(self, fetched: Fetched, policy: Policy) -> Evaluation:
        columns = tuple(policy.registration.guarded_slices)
        return await asyncio.to_thread(read_evaluation, fetched.path, digest=fetched.digest, slice_columns=columns)

    async def _decide(self, prepared: Prepared, folder: Path) -> Basis:
        training = prepared.training

        def load(connection: Connection) -> tuple[LineState, StoredVersion | None, StoredVersion | None]:
            line = _read_line(connection, training, prepared.fingerprint)
            baseline = read_version_by_id(connection, line.baseline_id) if line.baseline_id else None
            return line, baseline, read_version_by_id(connection, line.twin_id) if line.twin_id else None

        line, baseline, twin = await self._store.read(load)
        if line.policy_revision != prepared.policy_revision:
            raise Conflict(f"the policy of {training.model} changed meanwhile", code="POLICY_MOVED")
        comparison = Comparison(unknown_because="there is nothing to compare with")
        if baseline is not None and twin is None:
            comparison = await self._compare(prepared, baseline, folder)
        given = DecisionInput(
            fingerprint=prepared.fingerprint,
            signature=signature_from_wire(training.signature),
            gate=gate_from_wire(prepared.policy.registration.gate_metric),
            comparison=comparison,
            newest_major=line.newest_major,
            line_top=line.line_top,
            baseline=baseline.contender if baseline else None,
            twin=twin.contender if twin else None,
        )
        return Basis(line=line, given=given, decision=decide(given))

    async def _compare(self, prepared: Prepared, baseline: StoredVersion, folder: Path) -> Comparison:
        """Pair the evaluations of candidate and baseline, if they are of the same examples."""
        metric = prepared.policy.registration.gate_metric.name
        mine = _dataset_digest(prepared.training, metric)
        theirs = _dataset_digest(baseline.registered, metric)
        if not mine or mine != theirs:
            return Comparison(unknown_because=f"{metric} was not measured on the same evaluation data")
        if prepared.evaluation is None or not baseline.registered.evaluation_uri:
            return Comparison(unknown_because="there is no evaluation file on both sides")
        try:
            fetched = await self._intake.fetch_file(
                baseline.registered.evaluation_uri, folder / "baseline", field="evaluation_uri"
            )
        except Rejected as error:
            # It is ours to keep, not the producer's: what is lost is unknown, and registrations go on.
            log.warning("the baseline's evaluation is lost", uri=baseline.registered.evaluation_uri, error=str(error))
            return Comparison(unknown_because="the evaluation of the baseline is lost")
        other = await self._read_evaluation(fetched, prepared.policy)
        return await asyncio.to_thread(compare, prepared.evaluation, other, metric=metric)

    async def _store_files(self, prepared: Prepared, basis: Basis, cause: Cause) -> ModelRegistered:
        """Return the event, complete but for its sequence; its files are stored (a duplicate stores nothing)."""
        registered = announce(prepared, basis, cause)
        if basis.decision.change is Change.NONE:
            # Publishing a version again mends what it has lost.
            twin = await self._store.read(lambda connection: read_version_by_id(connection, basis.line.twin_id))
            await bring_back(self._intake, twin.registered, prepared.artifact, prepared.files.values())
            return registered
        if registered.ByteSize() > EVENT_BYTES_MAX:
            message = f"the registration has {registered.ByteSize()} bytes, at most {EVENT_BYTES_MAX}"
            raise rejected("METADATA_TOO_LARGE", message, "")
        registered.artifact.uri = await self._intake.store_artifact(prepared.artifact)
        for field, fetched in prepared.files.items():
            setattr(registered, field, await self._intake.store_file(fetched))
        return registered

    async def _commit(
        self, prepared: Prepared, basis: Basis, registered: ModelRegistered, cause: Cause
    ) -> Registration:
        """Version, lineage, answer and event in one transaction, if the line is still as it was decided from."""
        training = prepared.training
        key = _request_key(training)

        def commit(connection: Connection) -> Registration:
            known = _known(connection, training.model, key)
            if known is not None:
                return known
            if _read_line(connection, training, prepared.fingerprint) != basis.line:
                raise Conflict(f"the line of {training.model} moved meanwhile", code="LINE_MOVED")
            kind = _DUPLICATE if basis.decision.change is Change.NONE else _NEW
            remember(connection, key, f"{basis.decision.version} {kind}".encode())
            if basis.decision.change is Change.NONE:
                # A cause whose version was learnt from the topic is answered by that version.
                if not was_consumed(connection, cause.id):
                    mark_consumed(connection, cause.id)
                twin = read_version_by_id(connection, basis.line.twin_id)
                _add_duplicate(connection, training, twin, cause)
                return Registration(version=twin, duplicate=True)
            mark_consumed(connection, cause.id)
            registered.sequence = next_sequence(connection, training.model)
            row_id = insert_version(
                connection,
                registered,
                verdict=basis.decision.numbers.verdict,
                baseline_id=basis.line.baseline_id or None,
            )
            event_id = derived_event_id("ModelRegistered", cause.id)
            add_event(connection, registered, cause=cause, event_id=event_id, sequence=registered.sequence)
            return Registration(version=read_version_by_id(connection, row_id), duplicate=False)

        result = await self._store.write(commit)
        REGISTRATIONS.labels("DUPLICATE" if result.duplicate else basis.decision.change.name).inc()
        reference = version_reference(training.model, result.version.registered.version)
        log.info("version registered", version=reference, rule=basis.decision.rule, reason=registered.reason)
        return result


def _refuse_if(found: list[Reason]) -> None:
    if found:
        raise Rejected(found)


def check_model(model: str) -> None:
    """Refuse an illegal model name.

    Raises:
        Rejected: Code MODEL_NAME_INVALID.

    """
    if not is_model(model):
        raise rejected(
            "MODEL_NAME_INVALID",
            f"model is {model!r}, expected a name like flight-delay or team-a.flight-delay",
            "model",
            hint="lower-case letters, digits and hyphens, at most 62, beginning with a letter",
        )


def _request_key(training: TrainingCompleted) -> RequestKey:
    return RequestKey(
        scope=f"RegisterVersion/{training.model}", request_id=training.request_id, body_digest=digest_of(training)
    )


def _known(connection: Connection, model: str, key: RequestKey) -> Registration | None:
    answer = recall(connection, key)
    if answer is None:
        return None
    number, _, duplicate = answer.decode().partition(" ")
    version = read_version(connection, model, parse_version(number))
    return Registration(version=version, duplicate=duplicate == _DUPLICATE)


def _read_line(connection: Connection, training: TrainingCompleted, fingerprint: Fingerprint) -> LineState:
    try:
        return read_line(connection, training.model, major_line=training.major_line, fingerprint=fingerprint)
    except NotFound as error:
        raise rejected(error.code, str(error), error.field) from None


def _dataset_digest(measured: TrainingCompleted | ModelRegistered, metric: str) -> str:
    return next((one.dataset_digest for one in measured.metrics if one.name == metric and not one.slice), "")


def _add_duplicate(connection: Connection, training: TrainingCompleted, version: StoredVersion, cause: Cause) -> None:
    duplicate = RegistrationDuplicate(
        model=training.model, version=version.registered.version, request_id=training.request_id
    )
    event_id = derived_event_id("RegistrationDuplicate", cause.id)
    sequence = next_sequence(connection, training.model)
    add_event(connection, duplicate, cause=cause, event_id=event_id, sequence=sequence)
