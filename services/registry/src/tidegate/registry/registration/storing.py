"""Stored: the files lie under their digests, and the event is complete but for its sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tidegate.registry.catalog.outbox import Cause
from tidegate.registry.intake.artifacts import ArtifactIntake
from tidegate.registry.intake.mending import bring_back
from tidegate.registry.intake.rejection import rejected
from tidegate.registry.registration.announcement import announce
from tidegate.registry.registration.deciding import Decided
from tidegate.v1.events_pb2 import ModelRegistered

EVENT_BYTES_MAX: Final = 800_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A decision whose files are kept, and the event that will tell of it (of a duplicate it never does)."""

    decided: Decided
    registered: ModelRegistered


async def store_files(intake: ArtifactIntake, decided: Decided, cause: Cause) -> Stored:
    """Store the files; a duplicate stores only what its version has lost.

    Raises:
        Rejected: The event would be too large (code METADATA_TOO_LARGE).
        Unavailable: The object store is away.

    """
    prepared = decided.prepared
    registered = announce(decided, cause)
    if decided.twin is not None:
        # Publishing a version again mends what it has lost.
        await bring_back(intake, decided.twin.registered, prepared.artifact, prepared.files.values())
        return Stored(decided=decided, registered=registered)
    if registered.ByteSize() > EVENT_BYTES_MAX:
        message = f"the registration has {registered.ByteSize()} bytes, at most {EVENT_BYTES_MAX}"
        raise rejected("METADATA_TOO_LARGE", message, "")
    registered.artifact.uri = await intake.store_artifact(prepared.artifact)
    for field, fetched in prepared.files.items():
        setattr(registered, field, await intake.store_file(fetched))
    return Stored(decided=decided, registered=registered)
