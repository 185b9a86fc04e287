"""Why a command changes nothing, as the error that its caller gets: one code a reason, with what to do."""

from __future__ import annotations

from typing import Final

from tidegate.core.errors import FailedPrecondition, InvalidInput, NotFound
from tidegate.deployer.events import CommandGiven
from tidegate.deployer.state import Decision

_REFUSED: Final = "COMMAND_REFUSED"
_HINTS: Final = {
    _REFUSED: "`tidegate versions MODEL` and `tidegate rollouts list` say how things stand",
    "APPROVAL_MISSING": "`tidegate rollouts start MODEL@VERSION` begins, and waits for the approval",
    "POLICY_NOT_KEPT": "`tidegate rollback MODEL --to VERSION` switches to it at once",
    "POLICY_OBSERVES": "apply a policy with `mode: act` and publish again, or `tidegate rollback MODEL --to VERSION`",
    "MODEL_RETIRED": "`tidegate models retire MODEL --undo` brings it back",
    "NOT_RETIRED": "there is nothing to undo",
    "RETIRED_ALREADY": "there is nothing to do; `--undo` brings it back",
    "ROLLOUT_RUNNING": "`tidegate rollouts list --model MODEL` names it; `tidegate rollouts abort ID` ends it",
    "VERSION_BREACHED": "`tidegate rollouts start MODEL@VERSION` tries it again, guarded",
    "VERSION_NOT_BLESSED": "`tidegate why MODEL@VERSION` tells what its validation found",
    "VERSION_NOT_FOUND": "`tidegate versions MODEL` lists versions",
    "VERSION_RETIRED": "`tidegate versions retire MODEL@VERSION --undo` brings it back",
    "VERSION_STABLE": "`tidegate versions MODEL` and `tidegate rollouts list` say how things stand",
}


def refusal_of(given: CommandGiven, decision: Decision, subject: str) -> InvalidInput:
    """Return the error for a command about ``subject`` that the core ignores."""
    code = decision.code or _REFUSED
    why = f"{given.verb} of {subject} is refused: {decision.reason.removeprefix('ignored: ')}"
    kind = NotFound if code.endswith("_NOT_FOUND") else FailedPrecondition
    return kind(why, code=code, hint=_HINTS.get(code, _HINTS[_REFUSED]))


def unknown_model(model: str) -> NotFound:
    """Return the error for a model that the deployer never heard of."""
    return NotFound(
        f"model {model!r} is unknown: no version of it was registered",
        code="MODEL_NOT_FOUND",
        field="model",
        hint="`tidegate models` lists models",
    )
