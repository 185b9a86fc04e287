"""Retirements over gRPC: the answer is what was decided, with the rollout that brings a model back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from tidegate.contracts.access import Role
from tidegate.core.callers import ANONYMOUS, Caller, set_current_caller
from tidegate.core.errors import FailedPrecondition, InvalidInput, NotFound
from tidegate.deployer.rollout import decide
from tidegate.deployer.service import RolloutServicer, command_event_id
from tidegate.deployer.state import KnownVersion, ModelState, Number
from tidegate.deployer.store import RolloutBook
from tidegate.deployer.wire import command_from, retirement_message, state_message, step_message
from tidegate.v1 import rollout_events_pb2 as pb
from tidegate.v1 import rollout_service_pb2 as api
from tidegate.v1.values_pb2 import Version

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FILE = {"uri": "s3://b/k", "digest": "sha256:" + "0" * 64, "size_bytes": 1, "format": "onnx"}
KNOWN = tuple(KnownVersion(number=Number(1, minor, 0), blessed=True, **FILE) for minor in (0, 1))
STATE = ModelState(model="churn", stable=Number(1, 0, 0), versions=KNOWN)


class Context:
    """What gRPC gives a servicer; nothing is asked of it."""


@pytest.fixture(autouse=True)
def kim_calls():
    set_current_caller(Caller(name="kim", role=Role.OPERATOR))
    yield
    set_current_caller(ANONYMOUS)


class Desk:
    """A servicer before a deployer that decides by the real core and publishes in the real order."""

    def __init__(self, state: ModelState) -> None:
        self.book = RolloutBook()
        self.state = state
        self.verbs: list[str] = []
        self.book.remember(state_message(state))
        self.servicer = RolloutServicer(book=self.book, publish=self._publish, decided_within_s=30.0)

    async def _publish(self, command: pb.RolloutCommand) -> None:
        self.verbs.append(pb.RolloutCommand.Verb.Name(command.verb))
        given = command_from(command, 1.0, "RolloutCommand")
        assert given is not None
        decision = decide(self.state, given)
        self.state = decision.state
        self.book.remember(state_message(self.state))
        for step in decision.steps:
            self.book.record(step_message("churn", step), NOW, cause_id=command_event_id(command))
        assert decision.retirement is not None
        change = retirement_message("churn", decision.retirement)
        self.book.record_retirement(change, cause_id=command_event_id(command))

    async def model(self, request_id: str, **fields: Any) -> api.RetireModelResponse:
        request = api.RetireModelRequest(model="churn", request_id=request_id, **fields)
        async with asyncio.timeout(30):
            return await self.servicer.RetireModel(request, Context())

    async def version(self, request_id: str, **fields: Any) -> api.RetireVersionResponse:
        request = api.RetireVersionRequest(request_id=request_id, **{"model": "churn", **fields})
        async with asyncio.timeout(30):
            return await self.servicer.RetireVersion(request, Context())


@pytest.fixture
def desk() -> Desk:
    return Desk(STATE)


async def test_a_model_goes_and_comes_back_by_a_rollout(desk: Desk) -> None:
    gone = await desk.model("r1", reason="nobody asks it")
    assert (gone.change.retired, gone.change.actor, gone.HasField("rollout")) == (True, "kim", False)
    assert not gone.change.HasField("version")
    assert gone.change.cause.endswith(": nobody asks it")
    back = await desk.model("r2", undo=True)
    assert not back.change.retired
    assert back.rollout.rollout_id == back.change.rollout_id
    assert back.rollout.last_step.candidate == Version(major=1)
    assert desk.verbs == ["VERB_RETIRE", "VERB_RESTORE"]


async def test_a_version_goes_and_comes_back(desk: Desk) -> None:
    gone = await desk.version("r1", version=Version(major=1, minor=1))
    assert (gone.change.retired, gone.change.version) == (True, Version(major=1, minor=1))
    again = await desk.version("r1", version=Version(major=1, minor=1))
    assert again == gone
    assert len(desk.verbs) == 1
    assert not (await desk.version("r2", version=Version(major=1, minor=1), undo=True)).change.retired


@pytest.mark.parametrize(
    ("fields", "kind", "code"),
    [
        ({}, InvalidInput, "FIELD_MISSING"),
        ({"version": Version(major=1)}, FailedPrecondition, "VERSION_STABLE"),
        ({"version": Version(major=9)}, NotFound, "VERSION_NOT_FOUND"),
        ({"version": Version(major=1, minor=1), "undo": True}, FailedPrecondition, "NOT_RETIRED"),
        ({"version": Version(major=1), "model": "other"}, NotFound, "MODEL_NOT_FOUND"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_nothing_is_sent(
    desk: Desk, fields: Any, kind: type[InvalidInput], code: str
) -> None:
    with pytest.raises(kind) as caught:
        await desk.version("r1", **fields)
    assert (caught.value.code, desk.verbs) == (code, [])


async def test_nothing_of_a_retired_model_can_be_started(desk: Desk) -> None:
    await desk.model("r1")
    request = api.StartRolloutRequest(model="churn", version=Version(major=1, minor=1), request_id="r2")
    with pytest.raises(FailedPrecondition) as caught:
        await desk.servicer.StartRollout(request, Context())
    assert caught.value.code == "MODEL_RETIRED"
    assert "models retire MODEL --undo" in caught.value.hint
