"""Checked: what a producer sent holds together, and brings what the policy of its model wants."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.contracts.names import is_model
from tidegate.registry.catalog.policies import read_policy
from tidegate.registry.intake.checks import missing_facts, shape_faults
from tidegate.registry.intake.rejection import Rejected, rejected
from tidegate.registry.store import Store
from tidegate.v1.events_pb2 import TrainingCompleted
from tidegate.v1.policy_pb2 import Policy
from tidegate.v1.values_pb2 import Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a producer sent, and the policy that it was checked by."""

    training: TrainingCompleted
    policy: Policy
    policy_revision: int


def check_shape(training: TrainingCompleted) -> None:
    """Refuse what no policy could accept.

    Raises:
        Rejected: The reasons name the fields.

    """
    _check_model(training.model)
    _refuse_if(shape_faults(training))


async def check_facts(store: Store, training: TrainingCompleted) -> Checked:
    """Return the training with the policy in force.

    Raises:
        Rejected: A fact is missing that the policy requires.

    """
    policy, revision = await store.read(lambda connection: read_policy(connection, training.model))
    _refuse_if(missing_facts(training, policy.registration))
    return Checked(training=training, policy=policy, policy_revision=revision)


def _check_model(model: str) -> None:
    if not is_model(model):
        raise rejected(
            "MODEL_NAME_INVALID",
            f"model is {model!r}, expected a name like flight-delay or team-a.flight-delay",
            "model",
            hint="lower-case letters, digits and hyphens, at most 62, beginning with a letter",
        )


def _refuse_if(found: list[Reason]) -> None:
    if found:
        raise Rejected(found)
