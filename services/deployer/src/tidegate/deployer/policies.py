"""Which policy a version was blessed with: kept, so that it can be tried again by its own. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from tidegate.deployer.state import POLICIES_MAX, DeliveryPolicy, KeptPolicy, KnownVersion, ModelState


def remembered(state: ModelState, known: KnownVersion, policy: DeliveryPolicy) -> ModelState:
    """Return the state with ``known`` in place of its number, blessed with ``policy``.

    Beyond POLICIES_MAX the ones are forgotten that were first used longest ago.
    """
    digest = hashlib.sha256(repr(policy).encode()).hexdigest()[:16]
    marked = state.with_version(replace(known, policy_digest=digest))
    used = {version.policy_digest for version in marked.versions}
    kept = tuple(one for one in state.policies if one.digest in used)
    if all(one.digest != digest for one in kept):
        kept = (*kept, KeptPolicy(digest=digest, policy=policy))[-POLICIES_MAX:]
    return replace(marked, policies=kept)


def policy_of(state: ModelState, known: KnownVersion) -> DeliveryPolicy | None:
    """Return the policy that a version was blessed with, or None if it is not kept."""
    return next((one.policy for one in state.policies if one.digest == known.policy_digest), None)
