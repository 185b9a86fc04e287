"""The SDK's calls that follow and steer rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import grpc

from tidegate.client.rpc import call, stream
from tidegate.client.training import new_request_id
from tidegate.contracts.names import parse_version
from tidegate.core.errors import InvalidInput
from tidegate.v1 import rollout_service_pb2 as api
from tidegate.v1.rollout_events_pb2 import RolloutCommand
from tidegate.v1.rollout_service_pb2_grpc import RolloutServiceStub

PAGE_SIZE: Final = 200


class RolloutCalls:
    """What the deployer answers; a command's answer is its decision.

    A command with the same ``request_id`` has its effect once. Commands raise FailedPrecondition when they would
    change nothing (with the reason), and Unavailable when nobody decided in time.
    """

    def __init__(self, channel: grpc.Channel, address: str) -> None:
        stub: Any = RolloutServiceStub(channel)
        self._rollouts = stub
        self._deployer_address = address

    def _ask_deployer(self, method: Any, request: Any) -> Any:
        return call(method, request, address=self._deployer_address)

    def get_rollout(self, rollout_id: str) -> api.Rollout:
        """Return one rollout as it stands."""
        rollout: api.Rollout = self._ask_deployer(
            self._rollouts.GetRollout, api.GetRolloutRequest(rollout_id=rollout_id)
        ).rollout
        return rollout

    def list_rollouts(self, model: str = "") -> list[api.Rollout]:
        """Return the newest rollouts, of ``model`` or of all models (the first page)."""
        request = api.ListRolloutsRequest(model=model, page_size=PAGE_SIZE)
        return list(self._ask_deployer(self._rollouts.ListRollouts, request).rollouts)

    def watch_rollouts(self, model: str = "", *, timeout_s: float | None = None) -> Iterator[api.Rollout]:
        """Yield rollouts after each step from now on, for ever or for ``timeout_s``."""
        request = api.WatchRolloutsRequest(model=model)
        responses = stream(self._rollouts.WatchRollouts, request, address=self._deployer_address, deadline_s=timeout_s)
        return (response.rollout for response in responses)

    def start_rollout(self, model: str, version: str, *, reason: str = "", request_id: str = "") -> api.Rollout:
        """Try a version (again) by the policy that it was blessed with; return the new rollout."""
        request = api.StartRolloutRequest(
            model=model, version=version_of(version), request_id=request_id or new_request_id(), reason=reason
        )
        rollout: api.Rollout = self._ask_deployer(self._rollouts.StartRollout, request).rollout
        return rollout

    def retire_model(
        self, model: str, *, undo: bool = False, reason: str = "", request_id: str = ""
    ) -> api.RetireModelResponse:
        """Take a model out of service, or (``undo``) bring it back; its artifacts stay."""
        request = api.RetireModelRequest(
            model=model, undo=undo, request_id=request_id or new_request_id(), reason=reason
        )
        response: api.RetireModelResponse = self._ask_deployer(self._rollouts.RetireModel, request)
        return response

    def retire_version(
        self, model: str, version: str, *, undo: bool = False, reason: str = "", request_id: str = ""
    ) -> api.RetireVersionResponse:
        """Take a version out of service, or (``undo``) let it serve again; its artifacts stay."""
        request = api.RetireVersionRequest(
            model=model,
            version=version_of(version),
            undo=undo,
            request_id=request_id or new_request_id(),
            reason=reason,
        )
        response: api.RetireVersionResponse = self._ask_deployer(self._rollouts.RetireVersion, request)
        return response

    def pause_rollout(self, rollout_id: str, *, reason: str = "", request_id: str = "") -> api.Rollout:
        """Have a rollout stay at its step; a breach still rolls it back."""
        return self._steer(self._rollouts.PauseRollout, api.PauseRolloutRequest, rollout_id, reason, request_id)

    def resume_rollout(self, rollout_id: str, *, reason: str = "", request_id: str = "") -> api.Rollout:
        """Have a paused rollout go on."""
        return self._steer(self._rollouts.ResumeRollout, api.ResumeRolloutRequest, rollout_id, reason, request_id)

    def approve_rollout(self, rollout_id: str, *, reason: str = "", request_id: str = "") -> api.Rollout:
        """Let the approval pass that a rollout waits for."""
        return self._steer(self._rollouts.ApproveRollout, api.ApproveRolloutRequest, rollout_id, reason, request_id)

    def abort_rollout(self, rollout_id: str, *, reason: str = "", request_id: str = "") -> api.Rollout:
        """End a rollout; traffic goes back to stable."""
        return self._steer(self._rollouts.AbortRollout, api.AbortRolloutRequest, rollout_id, reason, request_id)

    def promote_rollout(self, rollout_id: str, *, full: bool, reason: str = "", request_id: str = "") -> api.Rollout:
        """Go to the next step, or (``full``) to 100 %, without waiting for evidence."""
        mode = RolloutCommand.MODE_FULL if full else RolloutCommand.MODE_NEXT
        return self._steer(
            self._rollouts.PromoteRollout, api.PromoteRolloutRequest, rollout_id, reason, request_id, mode=mode
        )

    def rollback_model(
        self, model: str, *, to: str = "", reason: str = "", request_id: str = ""
    ) -> api.RollbackModelResponse:
        """Move ``model`` back to version ``to``, or to its previous stable version."""
        request = api.RollbackModelRequest(
            model=model,
            version=version_of(to) if to else None,
            request_id=request_id or new_request_id(),
            reason=reason,
        )
        response: api.RollbackModelResponse = self._ask_deployer(self._rollouts.RollbackModel, request)
        return response

    def _steer(
        self, method: Any, request: Any, rollout_id: str, reason: str, request_id: str, **fields: Any
    ) -> api.Rollout:
        asked = request(rollout_id=rollout_id, request_id=request_id or new_request_id(), reason=reason, **fields)
        rollout: api.Rollout = self._ask_deployer(method, asked).rollout
        return rollout


def version_of(text: str) -> Any:
    """Return the version that ``text`` names.

    Raises:
        InvalidInput: It names none (code VERSION_INVALID).

    """
    try:
        return parse_version(text)
    except ValueError as error:
        raise InvalidInput(str(error), code="VERSION_INVALID", field="version") from None
