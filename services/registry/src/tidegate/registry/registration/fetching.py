"""Fetched: artifact and files are here and scanned, and what makes it the same as another registration is known."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from tidegate.registry.catalog.wire import fingerprint_of
from tidegate.registry.intake.artifacts import ArtifactIntake, Fetched
from tidegate.registry.intake.evaluation_file import read_evaluation
from tidegate.registry.intake.mending import fetch_files
from tidegate.registry.numbering.evaluation import Evaluation
from tidegate.registry.numbering.versioning import Fingerprint
from tidegate.registry.registration.checking import Checked
from tidegate.v1.events_pb2 import TrainingCompleted
from tidegate.v1.policy_pb2 import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What a producer sent, checked and fetched."""

    training: TrainingCompleted
    policy: Policy
    policy_revision: int
    artifact: Fetched
    files: dict[str, Fetched]
    evaluation: Evaluation | None
    fingerprint: Fingerprint


async def fetch(intake: ArtifactIntake, checked: Checked, folder: Path) -> Prepared:
    """Fetch all that the training names; nothing is stored.

    Raises:
        Rejected: Something is missing, too large, or not what it should be.
        Unavailable: The object store is away.

    """
    training = checked.training
    artifact = await intake.fetch_artifact(training.artifact, folder, signature=training.signature)
    files = await fetch_files(intake, training, folder)
    evaluation = None
    if "evaluation_uri" in files:
        evaluation = await read_guarded(files["evaluation_uri"], checked.policy)
    return Prepared(
        training=training,
        policy=checked.policy,
        policy_revision=checked.policy_revision,
        artifact=artifact,
        files=files,
        evaluation=evaluation,
        fingerprint=fingerprint_of(artifact.digest, training.signature, training.lineage),
    )


async def read_guarded(fetched: Fetched, policy: Policy) -> Evaluation:
    """Read an evaluation with the slices that the policy guards."""
    columns = tuple(policy.registration.guarded_slices)
    return await asyncio.to_thread(read_evaluation, fetched.path, digest=fetched.digest, slice_columns=columns)
