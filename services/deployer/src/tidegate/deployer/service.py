"""RolloutService: lookups from the read model; commands become events before they have an effect.

A command is answered with its decision. What the core would ignore is refused before it is published, by the state
that was committed last; the answer to the others is the step that they caused, whichever deployer decided.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from google.protobuf.message import Message

from tidegate.contracts.codec import derived_event_id
from tidegate.core.callers import current_caller
from tidegate.core.clock import utc_now
from tidegate.core.errors import FailedPrecondition, InvalidInput, NotFound, Unavailable
from tidegate.deployer import rollout as core
from tidegate.deployer.answers import Answers
from tidegate.deployer.refusals import refusal_of, unknown_model
from tidegate.deployer.requests import (
    about,
    check_model,
    check_phase,
    checked_text,
    model_of,
    page_start,
    page_token,
    previous_stable,
    required_version,
    retirement_of,
)
from tidegate.deployer.store import RolloutBook, retirement_key
from tidegate.deployer.wire import command_from
from tidegate.v1 import rollout_events_pb2 as pb
from tidegate.v1 import rollout_service_pb2 as api
from tidegate.v1.rollout_service_pb2_grpc import RolloutServiceServicer

PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 1_000
# Below the deadline that clients set by default (10 s), so that they hear why there is no answer.
DECIDED_WITHIN_S: Final = 8.0

Response = TypeVar("Response", bound=Message)
PublishCommand = Callable[[pb.RolloutCommand], Awaitable[None]]


class RolloutServicer(RolloutServiceServicer):
    """Thin: validates, looks up, hands commands to ``publish`` (which returns when the broker has them)."""

    def __init__(
        self, *, book: RolloutBook, publish: PublishCommand, decided_within_s: float = DECIDED_WITHIN_S
    ) -> None:
        self._book = book
        self._publish = publish
        self._decided_within_s = decided_within_s
        self._answers = Answers()

    async def GetRollout(self, request: api.GetRolloutRequest, _context: Any) -> api.GetRolloutResponse:  # noqa: N802
        """Return one rollout."""
        return api.GetRolloutResponse(rollout=self._find(request.rollout_id))

    async def ListRollouts(self, request: api.ListRolloutsRequest, _context: Any) -> api.ListRolloutsResponse:  # noqa: N802
        """Return a page of rollouts, newest first."""
        if request.model:
            check_model(request.model)
        may_see = current_caller().may_touch
        rollouts = [rollout for rollout in self._book.newest_first(request.model) if may_see(rollout.model)]
        start = page_start(request.page_token)
        size = min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
        if size < 0:
            raise InvalidInput(f"page_size is {request.page_size}, expected at least 0", field="page_size")
        more = page_token(start + size) if start + size < len(rollouts) else ""
        return api.ListRolloutsResponse(rollouts=rollouts[start : start + size], next_page_token=more)

    async def WatchRollouts(  # noqa: N802
        self, request: api.WatchRolloutsRequest, _context: Any
    ) -> AsyncIterator[api.WatchRolloutsResponse]:
        """Stream rollouts as they move."""
        if request.model:
            check_model(request.model)
        may_see = current_caller().may_touch
        async for rollout in self._book.watch(request.model):
            if may_see(rollout.model):
                yield api.WatchRolloutsResponse(rollout=rollout)

    async def StartRollout(self, request: api.StartRolloutRequest, _context: Any) -> api.StartRolloutResponse:  # noqa: N802
        """Try a version (again) by the policy that it was blessed with, as a new rollout."""

        def decide() -> tuple[pb.RolloutCommand, api.StartRolloutResponse]:
            self._check_known(request.model)
            verb, version = pb.RolloutCommand.VERB_START, required_version(request)
            command = pb.RolloutCommand(verb=verb, model=request.model, version=version)
            return command, api.StartRolloutResponse()

        return await self._once(request, decide)

    async def RetireModel(self, request: api.RetireModelRequest, _context: Any) -> api.RetireModelResponse:  # noqa: N802
        """Take a model out of service, or bring it back."""

        def decide() -> tuple[pb.RolloutCommand, api.RetireModelResponse]:
            self._check_known(request.model)
            return retirement_of(request), api.RetireModelResponse()

        return await self._once(request, decide)

    async def RetireVersion(self, request: api.RetireVersionRequest, _context: Any) -> api.RetireVersionResponse:  # noqa: N802
        """Take a version out of service, or let it serve again."""

        def decide() -> tuple[pb.RolloutCommand, api.RetireVersionResponse]:
            self._check_known(request.model)
            return retirement_of(request, version=required_version(request)), api.RetireVersionResponse()

        return await self._once(request, decide)

    async def PauseRollout(self, request: api.PauseRolloutRequest, _context: Any) -> api.PauseRolloutResponse:  # noqa: N802
        """Ask a rollout to stay at its step."""

        def decide() -> tuple[pb.RolloutCommand, api.PauseRolloutResponse]:
            rollout = self._find_running(request.rollout_id)
            return about(rollout, pb.RolloutCommand.VERB_PAUSE), api.PauseRolloutResponse(rollout=rollout)

        return await self._once(request, decide)

    async def ResumeRollout(self, request: api.ResumeRolloutRequest, _context: Any) -> api.ResumeRolloutResponse:  # noqa: N802
        """Ask a paused rollout to go on."""

        def decide() -> tuple[pb.RolloutCommand, api.ResumeRolloutResponse]:
            rollout = self._find_unbreached(request.rollout_id)
            check_phase(rollout, "PAUSED", code="ROLLOUT_NOT_PAUSED")
            return about(rollout, pb.RolloutCommand.VERB_RESUME), api.ResumeRolloutResponse(rollout=rollout)

        return await self._once(request, decide)

    async def ApproveRollout(self, request: api.ApproveRolloutRequest, _context: Any) -> api.ApproveRolloutResponse:  # noqa: N802
        """Let the approval pass that a rollout waits for."""

        def decide() -> tuple[pb.RolloutCommand, api.ApproveRolloutResponse]:
            rollout = self._find_running(request.rollout_id)
            check_phase(rollout, "AWAITING_APPROVAL", code="APPROVAL_NOT_AWAITED")
            return about(rollout, pb.RolloutCommand.VERB_APPROVE), api.ApproveRolloutResponse(rollout=rollout)

        return await self._once(request, decide)

    async def AbortRollout(self, request: api.AbortRolloutRequest, _context: Any) -> api.AbortRolloutResponse:  # noqa: N802
        """Ask for the end of a rollout."""

        def decide() -> tuple[pb.RolloutCommand, api.AbortRolloutResponse]:
            rollout = self._find_running(request.rollout_id)
            return about(rollout, pb.RolloutCommand.VERB_ABORT), api.AbortRolloutResponse(rollout=rollout)

        return await self._once(request, decide)

    async def PromoteRollout(self, request: api.PromoteRolloutRequest, _context: Any) -> api.PromoteRolloutResponse:  # noqa: N802
        """Ask for the next step, or for 100 %."""

        def decide() -> tuple[pb.RolloutCommand, api.PromoteRolloutResponse]:
            rollout = self._find_unbreached(request.rollout_id)
            command = about(rollout, pb.RolloutCommand.VERB_PROMOTE)
            command.mode = request.mode or pb.RolloutCommand.MODE_NEXT
            return command, api.PromoteRolloutResponse(rollout=rollout)

        return await self._once(request, decide)

    async def RollbackModel(self, request: api.RollbackModelRequest, _context: Any) -> api.RollbackModelResponse:  # noqa: N802
        """Ask for an earlier version to serve again."""

        def decide() -> tuple[pb.RolloutCommand, api.RollbackModelResponse]:
            check_model(request.model)
            rollouts = self._book.newest_first(request.model)
            if not rollouts:
                raise NotFound(f"model {request.model!r} has no rollout", code="MODEL_NOT_FOUND", field="model")
            target = request.version if request.HasField("version") else previous_stable(rollouts)
            verb = pb.RolloutCommand.VERB_ROLLBACK
            command = pb.RolloutCommand(verb=verb, model=request.model, version=target)
            return command, api.RollbackModelResponse(version=target)

        return await self._once(request, decide)

    async def _once(self, request: Any, decide: Callable[[], tuple[pb.RolloutCommand, Response]]) -> Response:
        """Publish the command that ``decide`` gives and return its answer; a known request gets its answer again."""
        known = self._answers.find(request, request.request_id)
        if known is not None:
            current_caller().check_model(model_of(known))
            return cast(Response, known)
        command, answer = decide()
        command.request_id = request.request_id
        command.actor = current_caller().name
        command.reason = checked_text("reason", request.reason)
        await self._book.caught_up(command.model)
        self._refuse_what_was_decided(command)
        self._refuse_what_is_ignored(command)
        with self._book.awaiting(_awaited(command)) as decision:
            await self._publish(command)
            rollout_id = await self._decided(decision, command)
        return self._answered(request, answer, rollout_id)

    def _answered(self, request: Any, answer: Response, rollout_id: str) -> Response:
        rollout = self._book.get(rollout_id)
        if rollout is not None:
            answer.rollout.CopyFrom(rollout)  # type: ignore[attr-defined]  # every response of a command has it
        change = self._book.retirement(request.request_id)
        if isinstance(answer, api.RetireModelResponse | api.RetireVersionResponse) and change is not None:
            answer.change.CopyFrom(change)
        self._answers.remember(request, request.request_id, answer)
        return answer

    def _refuse_what_was_decided(self, command: pb.RolloutCommand) -> None:
        """Refuse a request that was decided after its caller had gone, or at another replica: how is not known."""
        state = self._book.state(command.model)
        if state is not None and command.request_id in state.request_ids:
            raise FailedPrecondition(
                f"request {command.request_id!r} was decided before, and how is not remembered here",
                code="COMMAND_DECIDED_BEFORE",
                hint="`tidegate rollouts list` says how things stand; a new request id is a new command",
            )

    def _refuse_what_is_ignored(self, command: pb.RolloutCommand) -> None:
        """Refuse a command that would change nothing, by the core itself."""
        state = self._book.state(command.model)
        given = command_from(command, utc_now().timestamp(), "")
        if state is None or given is None:
            return
        decision = core.decide(state, given)
        if not decision.steps and decision.retirement is None:
            raise refusal_of(given, decision, command.rollout_id or command.model)

    async def _decided(self, decision: asyncio.Future[str], command: pb.RolloutCommand) -> str:
        try:
            async with asyncio.timeout(self._decided_within_s):
                rollout_id = await decision
                # Whoever commands next is refused by the state, which comes on a topic of its own.
                await self._book.until(command.model, lambda state: command.request_id in state.request_ids)
                return rollout_id
        except TimeoutError:
            raise Unavailable(
                f"the command is accepted, and was not decided within {self._decided_within_s:g} s",
                code="COMMAND_UNDECIDED",
                hint=f"request {command.request_id} has its effect once; `tidegate rollouts list` tells when it had",
            ) from None

    def _check_known(self, model: str) -> None:
        check_model(model)
        if self._book.state(model) is None:
            raise unknown_model(model)

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
        current_caller().check_model(rollout.model)
        return rollout

    def _find_running(self, rollout_id: str) -> api.Rollout:
        rollout = self._find(rollout_id)
        if rollout.ended:
            phase = pb.Phase.Name(rollout.last_step.phase).removeprefix("PHASE_")
            raise FailedPrecondition(f"rollout {rollout_id!r} has ended: {phase}", code="ROLLOUT_ENDED")
        return rollout

    def _find_unbreached(self, rollout_id: str) -> api.Rollout:
        rollout = self._find_running(rollout_id)
        if rollout.last_step.breached_guard:
            raise FailedPrecondition(
                f"rollout {rollout_id!r} has breached {rollout.last_step.breached_guard}",
                code="ROLLOUT_BREACHED",
                hint="register a better version; a breached rollout never gets more traffic",
            )
        return rollout


def command_event_id(command: pb.RolloutCommand) -> str:
    """Return the id of the event that carries ``command``: steps name it as their cause."""
    return derived_event_id("RolloutCommand", command.request_id)


def _awaited(command: pb.RolloutCommand) -> str:
    about_service = (pb.RolloutCommand.VERB_RETIRE, pb.RolloutCommand.VERB_RESTORE)
    event_id = command_event_id(command)
    return retirement_key(event_id) if command.verb in about_service else event_id
