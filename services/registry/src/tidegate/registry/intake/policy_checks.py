"""What a policy must be before it is stored (pure)."""

from __future__ import annotations

from tidegate.core.policy import resolve_policy, validate_policy
from tidegate.registry.intake.rejection import Rejected
from tidegate.v1.policy_pb2 import Policy


def checked(policy: Policy) -> Policy:
    """Return ``policy`` with all defaults.

    Raises:
        Rejected: It has faults; each names its field.

    """
    resolved = resolve_policy(policy)
    faults = validate_policy(resolved)
    if faults:
        raise Rejected(faults)
    return resolved
