"""The calls of RolloutService that take models and versions out of service, and bring them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from tidegate.core.errors import InvalidInput
from tidegate.v1 import rollout_events_pb2 as pb
from tidegate.v1 import rollout_service_pb2 as api
from tidegate.v1.rollout_service_pb2_grpc import RolloutServiceServicer

Response = TypeVar("Response", bound=Message)


class RetirementCalls(RolloutServiceServicer):
    """Thin: names the command; whoever inherits has it decided."""

    async def _once(self, request: Any, decide: Callable[[], tuple[pb.RolloutCommand, Response]]) -> Response:
        raise NotImplementedError

    def _check_known(self, model: str) -> None:
        raise NotImplementedError

    async def RetireModel(self, request: api.RetireModelRequest, _context: Any) -> api.RetireModelResponse:  # noqa: N802
        """Take a model out of service, or bring it back."""

        def decide() -> tuple[pb.RolloutCommand, api.RetireModelResponse]:
            self._check_known(request.model)
            return pb.RolloutCommand(verb=_verb(request), model=request.model), api.RetireModelResponse()

        return await self._once(request, decide)

    async def RetireVersion(self, request: api.RetireVersionRequest, _context: Any) -> api.RetireVersionResponse:  # noqa: N802
        """Take a version out of service, or let it serve again."""

        def decide() -> tuple[pb.RolloutCommand, api.RetireVersionResponse]:
            self._check_known(request.model)
            version = required_version(request)
            command = pb.RolloutCommand(verb=_verb(request), model=request.model, version=version)
            return command, api.RetireVersionResponse()

        return await self._once(request, decide)


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


def _verb(request: Any) -> pb.RolloutCommand.Verb.ValueType:
    return pb.RolloutCommand.VERB_RESTORE if request.undo else pb.RolloutCommand.VERB_RETIRE
