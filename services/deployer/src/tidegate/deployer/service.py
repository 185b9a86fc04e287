"""RolloutService: lookups from the read model; commands become events before they have an effect."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from tidegate.contracts.names import is_model
from tidegate.core.errors import FailedPrecondition, InvalidInput, NotFound
from tidegate.deployer.store import RolloutBook
from tidegate.v1 import rollout_events_pb2 as pb
from tidegate.v1 import rollout_service_pb2 as api
from tidegate.v1.rollout_service_pb2_grpc import RolloutServiceServicer
from tidegate.v1.values_pb2 import Version

PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 1_000
TEXT_MAX: Final = 1_000
ACTOR_METADATA: Final = "x-tidegate-actor"
ANONYMOUS: Final = "anonymous"

PublishCommand = Callable[[pb.RolloutCommand], Awaitable[None]]


class RolloutServicer(RolloutServiceServicer):
    """Thin: validates, looks up, hands commands to ``publish`` (which returns when the broker has them)."""

    def __init__(self, *, book: RolloutBook, publish: PublishCommand) -> None:
        self._book = book
        self._publish = publish

    async def GetRollout(self, request: api.GetRolloutRequest, _context: Any) -> api.GetRolloutResponse:  # noqa: N802
        """Return one rollout."""
        return api.GetRolloutResponse(rollout=self._find(request.rollout_id))

    async def ListRollouts(self, request: api.ListRolloutsRequest, _context: Any) -> api.ListRolloutsResponse:  # noqa: N802
        """Return a page of rollouts, newest first."""
        if request.model:
            _check_model(request.model)
        rollouts = self._book.newest_first(request.model)
        start = _page_start(request.page_token)
        size = min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
        if size < 0:
            raise InvalidInput(f"page_size is {request.page_size}, expected at least 0", field="page_size")
        more = _page_token(start + size) if start + size < len(rollouts) else ""
        return api.ListRolloutsResponse(rollouts=rollouts[start : start + size], next_page_token=more)

    async def WatchRollouts(  # noqa: N802
        self, request: api.WatchRolloutsRequest, _context: Any
    ) -> AsyncIterator[api.WatchRolloutsResponse]:
        """Stream rollouts as they move."""
        if request.model:
            _check_model(request.model)
        async for rollout in self._book.watch(request.model):
            yield api.WatchRolloutsResponse(rollout=rollout)

    async def AbortRollout(self, request: api.AbortRolloutRequest, context: Any) -> api.AbortRolloutResponse:  # noqa: N802
        """Ask for the end of a rollout."""
        rollout = self._find_running(request.rollout_id)
        await self._command(
            pb.RolloutCommand(
                request_id=_request_id(request.request_id),
                verb=pb.RolloutCommand.VERB_ABORT,
                model=rollout.model,
                rollout_id=rollout.rollout_id,
                actor=_actor(context),
                reason=_text("reason", request.reason),
            )
        )
        return api.AbortRolloutResponse(rollout=rollout)

    async def PromoteRollout(self, request: api.PromoteRolloutRequest, context: Any) -> api.PromoteRolloutResponse:  # noqa: N802
        """Ask for the next step, or for 100 %."""
        rollout = self._find_running(request.rollout_id)
        if rollout.last_step.breached_guard:
            raise FailedPrecondition(
                f"rollout {rollout.rollout_id!r} has breached {rollout.last_step.breached_guard}",
                code="ROLLOUT_BREACHED",
                hint="register a better version; a breached rollout never gets more traffic",
            )
        await self._command(
            pb.RolloutCommand(
                request_id=_request_id(request.request_id),
                verb=pb.RolloutCommand.VERB_PROMOTE,
                model=rollout.model,
                rollout_id=rollout.rollout_id,
                mode=request.mode or pb.RolloutCommand.MODE_NEXT,
                actor=_actor(context),
                reason=_text("reason", request.reason),
            )
        )
        return api.PromoteRolloutResponse(rollout=rollout)

    async def RollbackModel(self, request: api.RollbackModelRequest, context: Any) -> api.RollbackModelResponse:  # noqa: N802
        """Ask for an earlier version to serve again."""
        _check_model(request.model)
        rollouts = self._book.newest_first(request.model)
        if not rollouts:
            raise NotFound(f"model {request.model!r} has no rollout", code="MODEL_NOT_FOUND", field="model")
        target = request.version if request.HasField("version") else _previous_stable(rollouts)
        await self._command(
            pb.RolloutCommand(
                request_id=_request_id(request.request_id),
                verb=pb.RolloutCommand.VERB_ROLLBACK,
                model=request.model,
                version=target,
                actor=_actor(context),
                reason=_text("reason", request.reason),
            )
        )
        return api.RollbackModelResponse(version=target)

    async def _command(self, command: pb.RolloutCommand) -> None:
        await self._publish(command)

    def _find(self, rollout_id: str) -> api.Rollout:
        if not rollout_id:
            raise InvalidInput("rollout_id is empty", code="FIELD_MISSING", field="rollout_id")
        rollout = self._book.get(rollout_id)
        if rollout is None:
            raise NotFound(
                f"rollout {rollout_id!r} does not exist",
                code="ROLLOUT_NOT_FOUND",
                field="rollout_id",
                hint="tidegate rollouts list names them",
            )
        return rollout

    def _find_running(self, rollout_id: str) -> api.Rollout:
        rollout = self._find(rollout_id)
        if rollout.ended:
            phase = pb.Phase.Name(rollout.last_step.phase).removeprefix("PHASE_")
            raise FailedPrecondition(f"rollout {rollout_id!r} has ended: {phase}", code="ROLLOUT_ENDED")
        return rollout


def _previous_stable(rollouts: list[api.Rollout]) -> Version:
    """Return what a running rollout would fall back to, else what served before the newest version that took all."""
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


def _check_model(model: str) -> None:
    if not is_model(model):
        raise InvalidInput(f"model is {model!r}, which is no legal name", code="MODEL_NAME_INVALID", field="model")


def _request_id(request_id: str) -> str:
    if not request_id:
        raise InvalidInput(
            "request_id is empty, expected one chosen by the caller", code="FIELD_MISSING", field="request_id"
        )
    return _text("request_id", request_id)


def _text(field: str, text: str) -> str:
    if len(text) > TEXT_MAX:
        raise InvalidInput(
            f"{field} has {len(text)} characters, at most {TEXT_MAX}", code="FIELD_TOO_LONG", field=field
        )
    return text


def _actor(context: Any) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == ACTOR_METADATA:
            return str(value)[:TEXT_MAX]
    return ANONYMOUS


def _page_token(start: int) -> str:
    return base64.urlsafe_b64encode(str(start).encode()).decode()


def _page_start(token: str) -> int:
    if not token:
        return 0
    try:
        return max(0, int(base64.urlsafe_b64decode(token.encode())))
    except ValueError:
        raise InvalidInput(
            f"page_token is {token!r}, expected one from a response", code="PAGE_TOKEN_INVALID", field="page_token"
        ) from None
