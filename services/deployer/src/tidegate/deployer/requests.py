"""What requests to RolloutService must be, and the commands that they mean; no input or output."""

from __future__ import annotations

import base64
from typing import Any, Final

from tidegate.contracts.names import is_model
from tidegate.core.errors import FailedPrecondition, InvalidInput
from tidegate.v1 import rollout_events_pb2 as pb
from tidegate.v1 import rollout_service_pb2 as api
from tidegate.v1.values_pb2 import Version

TEXT_MAX: Final = 1_000


def about(rollout: api.Rollout, verb: pb.RolloutCommand.Verb.ValueType) -> pb.RolloutCommand:
    """Return a command about a rollout."""
    return pb.RolloutCommand(verb=verb, model=rollout.model, rollout_id=rollout.rollout_id)


def retirement_of(request: Any, *, version: Version | None = None) -> pb.RolloutCommand:
    """Return the command to take a model, or one ``version`` of it, out of service, or to bring it back."""
    verb = pb.RolloutCommand.VERB_RESTORE if request.undo else pb.RolloutCommand.VERB_RETIRE
    return pb.RolloutCommand(verb=verb, model=request.model, version=version)


def required_version(request: Any) -> Any:
    """Return the version that a request names.

    Raises:
        InvalidInput: It names none; nothing must be read as version 0.0.0, or as the whole model.

    """
    if not request.HasField("version"):
        raise InvalidInput("version is missing", code="FIELD_MISSING", field="version")
    return request.version


def model_of(answer: Any) -> str:
    """Return the model that the answer to a command is about."""
    is_retirement = isinstance(answer, api.RetireModelResponse | api.RetireVersionResponse)
    return str(answer.change.model if is_retirement else answer.rollout.model)


def check_model(model: str) -> None:
    """See that a text is a legal name of a model.

    Raises:
        InvalidInput: It is none.

    """
    if not is_model(model):
        raise InvalidInput(f"model is {model!r}, which is no legal name", code="MODEL_NAME_INVALID", field="model")


def check_phase(rollout: api.Rollout, wanted: str, *, code: str) -> None:
    """See that a rollout is in the phase ``wanted``.

    Raises:
        FailedPrecondition: It is not (with ``code``).

    """
    now = pb.Phase.Name(rollout.last_step.phase).removeprefix("PHASE_")
    if now != wanted:
        raise FailedPrecondition(f"rollout {rollout.rollout_id!r} is {now}, expected {wanted}", code=code)


def checked_text(field: str, text: str) -> str:
    """Return a text of a person.

    Raises:
        InvalidInput: It is too long.

    """
    if len(text) > TEXT_MAX:
        raise InvalidInput(
            f"{field} has {len(text)} characters, at most {TEXT_MAX}", code="FIELD_TOO_LONG", field=field
        )
    return text


def previous_stable(rollouts: list[api.Rollout]) -> Version:
    """Return what a running rollout would fall back to, else what served before the newest version that took all.

    Raises:
        FailedPrecondition: No version served before (code NO_PREVIOUS_STABLE).

    """
    newest = rollouts[0]
    if not newest.ended and newest.last_step.HasField("stable"):
        return newest.last_step.stable
    taken = (pb.PHASE_SETTLING, pb.PHASE_PROMOTED)
    for rollout in rollouts:
        if rollout.last_step.phase in taken and rollout.last_step.HasField("stable"):
            return rollout.last_step.stable
    raise FailedPrecondition(
        f"model {rollouts[0].model!r} has no previous stable version", code="NO_PREVIOUS_STABLE", field="version"
    )


def page_token(start: int) -> str:
    """Return the token of the page that begins at ``start``."""
    return base64.urlsafe_b64encode(str(start).encode()).decode()


def page_start(token: str) -> int:
    """Return where the page of a token begins.

    Raises:
        InvalidInput: It is no token of ours.

    """
    if not token:
        return 0
    try:
        return max(0, int(base64.urlsafe_b64decode(token.encode())))
    except ValueError:
        raise InvalidInput(
            f"page_token is {token!r}, expected one from a response", code="PAGE_TOKEN_INVALID", field="page_token"
        ) from None
