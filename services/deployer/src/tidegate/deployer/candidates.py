"""Which version is tried next: registrations, blessings and approvals, in whatever order they come. Pure."""

from __future__ import annotations

from dataclasses import replace

from tidegate.deployer import progress
from tidegate.deployer.events import VersionApproved, VersionBlessed, VersionRegistered
from tidegate.deployer.policies import remembered
from tidegate.deployer.progress import ignored
from tidegate.deployer.state import (
    KNOWN_VERSIONS_MAX,
    QUEUE_MAX,
    Blessed,
    Decision,
    ModelState,
    Phase,
    Rollout,
)
from tidegate.deployer.strategies import strategy_for


def version_registered(state: ModelState, event: VersionRegistered) -> Decision:
    """Return what follows from a registration: a blessing that came before it has its effect now."""
    number = event.version.number
    if state.version(number) is not None:
        return ignored(state, f"{number} is known already")
    versions = (*state.versions, event.version)
    early = next((waiting for waiting in state.queue if waiting.number == number), None)
    if len(versions) > KNOWN_VERSIONS_MAX:
        needed = {*state.wanted_servers(), *(waiting.number for waiting in state.queue)}
        if state.retired is not None:
            kept = (*state.retired.retained, state.retired.stable)
            needed |= {number for number in kept if number is not None}
        droppable = next(version for version in versions if version.number not in needed)
        versions = tuple(version for version in versions if version is not droppable)
    registered = replace(state, versions=versions)
    if early is None:
        return Decision(state=registered, reason=f"{number} is registered")
    # The two topics have no order between them: the blessing came first.
    queue = tuple(waiting for waiting in state.queue if waiting is not early)
    blessing = VersionBlessed(time_s=event.time_s, cause=event.cause, blessed=early)
    return version_blessed(replace(registered, queue=queue), blessing)


def version_blessed(state: ModelState, event: VersionBlessed) -> Decision:
    """Return what follows from a blessing: a rollout, now or later, or the reason why there is none."""
    blessed = event.blessed
    known = state.version(blessed.number)
    if known is None:
        return _blessed_early(state, blessed)
    wanted = strategy_for(blessed.number, state.stable, blessed.policy)
    marked = remembered(state, replace(known, blessed=True, approval=wanted.approval), blessed.policy)
    refusal = _refusal(marked, blessed)
    if refusal:
        return Decision(state=marked, reason=refusal)
    if marked.rollout is None:
        return progress.open_rollout(marked, blessed, event.time_s, event.cause)
    return _blessed_meanwhile(marked, marked.rollout, event)


def _blessed_meanwhile(marked: ModelState, rollout: Rollout, event: VersionBlessed) -> Decision:
    """Return what follows when a version is blessed while the rollout of another one runs."""
    blessed = event.blessed
    if _is_frozen_alone(rollout) and blessed.number > rollout.candidate:
        return give_way(replace(marked, queue=(*marked.queue, blessed)), event.time_s, event.cause)
    if _supersedes(blessed, rollout):
        unregistered = tuple(one for one in marked.queue if marked.version(one.number) is None)
        waiting = replace(marked, queue=(blessed, *unregistered))
        why = f"{blessed.number} takes the place of {rollout.candidate}"
        return progress.end_with(waiting, Phase.SUPERSEDED, why, event.time_s, event.cause)
    if len(marked.queue) >= QUEUE_MAX:
        return Decision(
            state=marked, reason=f"{QUEUE_MAX} versions wait already, {blessed.number} must be started by hand"
        )
    queued = replace(marked, queue=(*marked.queue, blessed))
    return Decision(state=queued, reason=f"{blessed.number} waits for the end of {rollout.rollout_id}")


def _blessed_early(state: ModelState, blessed: Blessed) -> Decision:
    if len(state.queue) >= QUEUE_MAX or any(one.rollout_id == blessed.rollout_id for one in state.queue):
        return ignored(state, f"{blessed.number} was never registered")
    waiting = replace(state, queue=(*state.queue, blessed))
    return Decision(state=waiting, reason=f"{blessed.number} waits for its registration")


def _supersedes(blessed: Blessed, rollout: Rollout) -> bool:
    """Say whether a newer blessing ends the running rollout; the only version in service is never taken out of it."""
    if blessed.policy.mid_rollout != "supersede" or rollout.ending is not None or blessed.number < rollout.candidate:
        return False
    return rollout.stable is not None or not rollout.has_traffic


def _is_frozen_alone(rollout: Rollout) -> bool:
    """Say whether the rollout is of a first version that has breached: it serves, since there is no other."""
    return bool(rollout.breached_guard) and rollout.stable is None and rollout.ending is None


def give_way(state: ModelState, time_s: float, cause: str) -> Decision:
    """End the rollout of a first version that has breached; it serves until the next one takes over."""
    why = "a newer version may take over from the one that breached"
    return progress.close(state, Phase.SUPERSEDED, why, time_s, cause)


def _refusal(state: ModelState, blessed: Blessed) -> str:
    """Return why a blessed version starts no rollout by itself, or ""."""
    known = state.version(blessed.number)
    if state.retired is not None or (known is not None and known.retired):
        return f"{'the model' if state.retired is not None else blessed.number} is retired: it is not delivered"
    if blessed.rollout_id in state.rollout_ids or any(one.rollout_id == blessed.rollout_id for one in state.queue):
        return f"{blessed.rollout_id} was opened already"
    if state.rollout is not None and blessed.number == state.rollout.candidate:
        return f"{blessed.number} is on its way already"
    if blessed.policy.mode == "observe":
        return f"the policy says observe: {blessed.number} is not delivered"
    if state.stable is not None and blessed.number <= state.stable:
        return f"{blessed.number} is not above stable {state.stable}: lower versions never start by themselves"
    return ""


def version_approved(state: ModelState, event: VersionApproved) -> Decision:
    """Return what follows from a person's consent to a version."""
    known = state.version(event.number)
    if known is None:
        return ignored(state, f"{event.number} was never registered")
    approved = state.with_version(replace(known, approved=True))
    rollout = approved.rollout
    if rollout is None or rollout.candidate != event.number or rollout.phase is not Phase.AWAITING_APPROVAL:
        return Decision(state=approved, reason=f"{event.number} is approved")
    return progress.approve(approved, f"{event.number} is approved", event.time_s, event.cause)
