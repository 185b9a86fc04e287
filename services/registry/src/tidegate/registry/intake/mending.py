"""Bringing back objects that the store has lost: what a producer publishes again, under the digests that are known."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog

from tidegate.contracts.names import version_reference
from tidegate.registry.intake.artifacts import ArtifactIntake, Fetched
from tidegate.registry.intake.rejection import Rejected
from tidegate.v1.events_pb2 import ModelRegistered, TrainingCompleted

FILE_FIELDS: Final = ("evaluation_uri", "reference_data_uri", "sample_requests_uri")

log = structlog.get_logger(__name__)


async def fetch_files(intake: ArtifactIntake, training: TrainingCompleted, folder: Path) -> dict[str, Fetched]:
    """Fetch the files that a training names beside its artifact, by field.

    Raises:
        Rejected: One is missing, too large, or lies where nothing may be named.
        Unavailable: The object store is away.

    """
    return {
        field: await intake.fetch_file(uri, folder / field, field=field)
        for field in FILE_FIELDS
        if (uri := getattr(training, field))
    }


def named_by(registered: ModelRegistered) -> set[str]:
    """Return the URIs of the objects that a version has."""
    return {uri for uri in (registered.artifact.uri, *(getattr(registered, each) for each in FILE_FIELDS)) if uri}


async def bring_back(
    intake: ArtifactIntake, registered: ModelRegistered, artifact: Fetched, files: Iterable[Fetched]
) -> None:
    """Store what the version has lost and the producer brought again; digests must agree, so that nothing changes."""
    named = named_by(registered)
    for fetched, is_artifact in ((artifact, True), *((one, False) for one in files)):
        if await intake.store_if_lost(fetched, named, is_artifact=is_artifact):
            reference = version_reference(registered.model, registered.version)
            log.warning("a lost object was brought back", digest=fetched.digest, version=reference)


async def mend(intake: ArtifactIntake, registered: ModelRegistered, training: TrainingCompleted, folder: Path) -> None:
    """Bring back what a version has lost, from the training that made it, if its sources are still there.

    Raises:
        Unavailable: The object store is away.

    """
    try:
        artifact = await intake.fetch_artifact(training.artifact, folder, signature=training.signature)
        files = await fetch_files(intake, training, folder)
    except Rejected as error:
        # The request was answered before, and gets its answer; what is lost stays lost.
        reference = version_reference(registered.model, registered.version)
        log.warning("lost objects can't be brought back", version=reference, error=str(error))
        return
    await bring_back(intake, registered, artifact, files.values())
