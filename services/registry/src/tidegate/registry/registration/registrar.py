"""One registration from end to end: checked, fetched, compared, decided, stored, and announced with its commit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from tidegate.core.disk import full_disk_is_unavailable
from tidegate.core.errors import Conflict
from tidegate.registry.catalog.outbox import Cause
from tidegate.registry.catalog.versions import StoredVersion
from tidegate.registry.intake.artifacts import ArtifactIntake
from tidegate.registry.intake.mending import mend, named_by
from tidegate.registry.registration.answers import Registration, answer_again, known_answer
from tidegate.registry.registration.checking import check_facts, check_shape
from tidegate.registry.registration.committing import commit
from tidegate.registry.registration.comparing import compare_with_line
from tidegate.registry.registration.deciding import decide_number
from tidegate.registry.registration.fetching import Prepared, fetch
from tidegate.registry.registration.storing import store_files
from tidegate.registry.registration.turns import Turns
from tidegate.registry.store import Store
from tidegate.v1.events_pb2 import TrainingCompleted

TRIES_MAX: Final = 10


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
        check_shape(training)
        known = await self._store.read(lambda connection: known_answer(connection, training))
        if known is not None:
            await self._mend_if_lost(training, known.version)
            return await self._store.write(lambda connection: answer_again(connection, training, cause))
        checked = await check_facts(self._store, training)
        with full_disk_is_unavailable(), self._fresh_folder() as folder:
            prepared = await fetch(self._intake, checked, Path(folder))
            async with self._turns.of(training.model):
                return await self._decide_and_commit(prepared, Path(folder), cause)

    async def _decide_and_commit(self, prepared: Prepared, folder: Path, cause: Cause) -> Registration:
        """Decide from the line as it is, and commit if it still is so; policies and verdicts move it without a turn."""
        for _ in range(TRIES_MAX):
            compared = await compare_with_line(self._store, self._intake, prepared, folder)
            decided = decide_number(compared)
            stored = await store_files(self._intake, decided, cause)
            try:
                return await commit(self._store, stored, cause)
            except Conflict as error:
                if error.code not in ("LINE_MOVED", "ROW_EXISTS"):
                    raise
        raise Conflict(f"the line of {prepared.training.model} moved {TRIES_MAX} times meanwhile", code="LINE_MOVED")

    async def _mend_if_lost(self, training: TrainingCompleted, version: StoredVersion) -> None:
        if await self._intake.has_all(named_by(version.registered)):
            return
        with full_disk_is_unavailable(), self._fresh_folder() as folder:
            await mend(self._intake, version.registered, training, Path(folder))

    def _fresh_folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(dir=self._work_dir, prefix="registration-")
