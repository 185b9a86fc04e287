"""RolloutService: what is accepted becomes one command on the bus, what makes no sense is refused by its code."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tidegate.contracts.access import Role
from tidegate.core.callers import ANONYMOUS, Caller, set_current_caller
from tidegate.core.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound, Unavailable
from tidegate.deployer.policies import remembered
from tidegate.deployer.service import RolloutServicer, command_event_id
from tidegate.deployer.state import DeliveryPolicy, KnownVersion, ModelState, Number, Strategy
from tidegate.deployer.store import RolloutBook
from tidegate.deployer.wire import state_message
from tidegate.v1 import rollout_events_pb2 as pb
from tidegate.v1 import rollout_service_pb2 as api
from tidegate.v1.values_pb2 import Version

ID = "churn-1.1.0-00000000"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
VERBS = {
    "Pause": (pb.RolloutCommand.VERB_PAUSE, pb.PHASE_STEPPING),
    "Resume": (pb.RolloutCommand.VERB_RESUME, pb.PHASE_PAUSED),
    "Approve": (pb.RolloutCommand.VERB_APPROVE, pb.PHASE_AWAITING_APPROVAL),
    "Abort": (pb.RolloutCommand.VERB_ABORT, pb.PHASE_STEPPING),
    "Promote": (pb.RolloutCommand.VERB_PROMOTE, pb.PHASE_STEPPING),
}


KIM = Caller(name="kim", role=Role.OPERATOR)


class Context:
    """What gRPC gives a servicer; nothing is asked of it."""


@pytest.fixture(autouse=True)
def kim_calls():
    set_current_caller(KIM)
    yield
    set_current_caller(ANONYMOUS)


class Desk:
    """A servicer whose book holds one rollout, and the commands that it published."""

    def __init__(self, decided_within_s: float = 0.01) -> None:
        self.book = RolloutBook()
        self.commands: list[pb.RolloutCommand] = []
        self.sequence = 0
        self.decides = True
        self.servicer = RolloutServicer(book=self.book, publish=self._publish, decided_within_s=decided_within_s)

    async def _publish(self, command: pb.RolloutCommand) -> None:
        self.commands.append(command)
        if self.decides:
            self.sequence += 1
            step = pb.RolloutStep(rollout_id=ID, model="churn", sequence=self.sequence, reason="decided")
            self.book.record(step, NOW, cause_id=command_event_id(command))

    def moves(self, phase: pb.Phase.ValueType, **facts: Any) -> None:
        self.sequence += 1
        step = pb.RolloutStep(
            rollout_id=ID, model="churn", sequence=self.sequence, phase=phase, candidate=Version(major=1, minor=1)
        )
        step.MergeFrom(pb.RolloutStep(**facts))
        self.book.record(step, NOW)

    async def ask(self, verb: str, request_id: str = "r1", rollout_id: str = ID, **fields: Any) -> Any:
        request = getattr(api, f"{verb}RolloutRequest")(rollout_id=rollout_id, request_id=request_id, **fields)
        return await getattr(self.servicer, f"{verb}Rollout")(request, Context())


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize("verb", VERBS)
async def test_a_command_reaches_the_bus_with_who_and_why(desk: Desk, verb: str) -> None:
    wanted, phase = VERBS[verb]
    desk.moves(phase)
    answer = await desk.ask(verb, reason="the numbers look odd")
    assert answer.rollout.rollout_id == ID
    (command,) = desk.commands
    assert (command.verb, command.model, command.rollout_id) == (wanted, "churn", ID)
    assert (command.request_id, command.actor, command.reason) == ("r1", "kim", "the numbers look odd")


@pytest.mark.parametrize("verb", VERBS)
async def test_a_request_that_is_repeated_gets_the_same_answer_and_no_second_command(desk: Desk, verb: str) -> None:
    desk.moves(VERBS[verb][1])
    first = await desk.ask(verb)
    desk.moves(pb.PHASE_ABORTED)  # a first request of this kind would be refused now
    assert await desk.ask(verb) == first
    assert len(desk.commands) == 1
    with pytest.raises(FailedPrecondition) as caught:
        await desk.ask(verb, request_id="r2")
    assert caught.value.code == "ROLLOUT_ENDED"


async def test_a_request_id_stays_with_its_request(desk: Desk) -> None:
    desk.moves(pb.PHASE_STEPPING)
    await desk.ask("Pause")
    for verb, reason in (("Pause", "another"), ("Abort", "")):
        with pytest.raises(AlreadyExists, match="'r1' came before") as caught:
            await desk.ask(verb, reason=reason)
        assert caught.value.code == "REQUEST_ID_REUSED"
    assert len(desk.commands) == 1


@pytest.mark.parametrize(
    ("verb", "phase", "code"),
    [
        ("Resume", pb.PHASE_STEPPING, "ROLLOUT_NOT_PAUSED"),
        ("Approve", pb.PHASE_STEPPING, "APPROVAL_NOT_AWAITED"),
        ("Pause", pb.PHASE_PROMOTED, "ROLLOUT_ENDED"),
        ("Abort", pb.PHASE_ROLLED_BACK, "ROLLOUT_ENDED"),
    ],
)
async def test_a_command_where_it_makes_no_sense_is_refused(desk: Desk, verb: str, phase: Any, code: str) -> None:
    desk.moves(phase)
    with pytest.raises(FailedPrecondition) as caught:
        await desk.ask(verb)
    assert (caught.value.code, desk.commands) == (code, [])


@pytest.mark.parametrize("verb", ["Resume", "Promote"])
async def test_a_breached_rollout_gets_no_more_traffic_by_hand(desk: Desk, verb: str) -> None:
    desk.moves(pb.PHASE_PAUSED, breached_guard="error_rate")
    with pytest.raises(FailedPrecondition, match="has breached error_rate") as caught:
        await desk.ask(verb)
    assert (caught.value.code, desk.commands) == ("ROLLOUT_BREACHED", [])


async def test_what_is_missing_is_named(desk: Desk) -> None:
    with pytest.raises(NotFound) as unknown:
        await desk.ask("Pause", rollout_id="nobody")
    assert unknown.value.code == "ROLLOUT_NOT_FOUND"
    desk.moves(pb.PHASE_STEPPING)
    with pytest.raises(InvalidInput) as nameless:
        await desk.ask("Pause", request_id="")
    assert (nameless.value.code, nameless.value.field) == ("REQUEST_ID_INVALID", "request_id")


async def test_a_model_goes_back_to_what_its_rollout_replaced(desk: Desk) -> None:
    desk.moves(pb.PHASE_STEPPING, stable=Version(major=1, minor=0, pipeline=3))
    request = api.RollbackModelRequest(model="churn", request_id="r9")
    assert (await desk.servicer.RollbackModel(request, Context())).version == Version(major=1, pipeline=3)
    (command,) = desk.commands
    assert (command.verb, command.version) == (pb.RolloutCommand.VERB_ROLLBACK, Version(major=1, pipeline=3))


@pytest.mark.parametrize("verb", VERBS)
async def test_the_answer_is_the_step_that_the_command_caused(desk: Desk, verb: str) -> None:
    desk.moves(VERBS[verb][1])
    assert (await desk.ask(verb)).rollout.last_step.reason == "decided"


async def test_a_command_that_nobody_decides_is_told_as_such_and_may_be_asked_again(desk: Desk) -> None:
    desk.moves(pb.PHASE_STEPPING)
    desk.decides = False
    with pytest.raises(Unavailable) as caught:
        await desk.ask("Pause")
    assert caught.value.code == "COMMAND_UNDECIDED"
    desk.decides = True
    assert (await desk.ask("Pause")).rollout.last_step.reason == "decided"


async def test_a_request_that_was_decided_unheard_is_no_success(desk: Desk) -> None:
    desk.moves(pb.PHASE_STEPPING)
    desk.book.remember(state_message(replace(STATE, request_ids=("r1",))))
    with pytest.raises(FailedPrecondition) as caught:
        await desk.ask("Pause")
    assert (caught.value.code, desk.commands) == ("COMMAND_DECIDED_BEFORE", [])


async def test_the_answer_waits_until_the_next_command_is_judged_by_it() -> None:
    book = RolloutBook()
    book.remember(state_message(STATE))
    waiting = asyncio.create_task(book.until("churn", lambda state: "r1" in state.request_ids))
    await asyncio.sleep(0)
    book.remember(state_message(replace(STATE, request_ids=("other",))))
    await asyncio.sleep(0)
    assert not waiting.done()
    book.remember(state_message(replace(STATE, request_ids=("other", "r1"))))
    await waiting


async def test_a_command_is_judged_by_a_state_as_new_as_what_its_caller_has_seen(desk: Desk) -> None:
    desk.moves(pb.PHASE_ABORTED)
    kept = remembered(replace(STATE, versions=KNOWN, sequence=0), replace(KNOWN[1], blessed=True), POLICY)
    desk.book.remember(state_message(kept))
    asked = asyncio.create_task(desk.servicer.StartRollout(start(Version(major=9)), Context()))
    await asyncio.sleep(0)
    assert not asked.done()
    desk.book.remember(state_message(replace(kept, sequence=desk.sequence)))
    with pytest.raises(NotFound):
        await asked


async def test_two_who_ask_with_one_request_id_are_both_told(desk: Desk) -> None:
    desk.moves(pb.PHASE_STEPPING)
    desk.decides = False
    found = await asyncio.gather(desk.ask("Pause"), desk.ask("Pause"), return_exceptions=True)
    assert [getattr(one, "code", one) for one in found] == ["COMMAND_UNDECIDED"] * 2


FILE = {"uri": "s3://b/k", "digest": "sha256:" + "0" * 64, "size_bytes": 1, "format": "onnx"}
KNOWN = tuple(KnownVersion(number=Number(1, minor, 0), blessed=not minor, **FILE) for minor in (0, 1))
CANARY = Strategy(name="canary", steps=(0.1, 1.0))
POLICY = DeliveryPolicy(revision=1, on_first=CANARY, on_major=CANARY, on_minor=CANARY, on_pipeline=CANARY)
STATE = replace(ModelState(model="churn", sequence=100), stable=Number(1, 0, 0))


@pytest.mark.parametrize(
    ("version", "code", "why"),
    [
        (Version(major=7), "VERSION_NOT_FOUND", "7.0.0 is unknown: it was never registered"),
        (Version(major=1, minor=1), "VERSION_NOT_BLESSED", "1.1.0 is not blessed"),
        (Version(major=1), "VERSION_STABLE", "1.0.0 is stable already"),
        (Version(major=1, minor=2), "VERSION_BREACHED", "1.2.0 has breached"),
    ],
)
async def test_a_rollback_that_makes_no_sense_is_refused_with_its_reason(
    desk: Desk, version: Version, code: str, why: str
) -> None:
    desk.moves(pb.PHASE_PROMOTED)
    desk.book.remember(state_message(replace(STATE, versions=KNOWN, breached=(Number(1, 2, 0),))))
    request = api.RollbackModelRequest(model="churn", version=version, request_id="r1")
    with pytest.raises(InvalidInput) as caught:
        await desk.servicer.RollbackModel(request, Context())
    assert (caught.value.code, desk.commands) == (code, [])
    assert isinstance(caught.value, NotFound if code == "VERSION_NOT_FOUND" else FailedPrecondition)
    assert why in str(caught.value)


async def test_a_version_is_started_by_its_name() -> None:
    desk = Desk(decided_within_s=30.0)
    kept = remembered(replace(STATE, versions=KNOWN), replace(KNOWN[1], blessed=True), POLICY)
    desk.book.remember(state_message(kept))
    started = asyncio.create_task(desk.servicer.StartRollout(start(Version(major=1, minor=1)), Context()))
    while not desk.commands:
        await asyncio.sleep(0)
    (command,) = desk.commands
    assert (command.verb, command.version) == (pb.RolloutCommand.VERB_START, Version(major=1, minor=1))
    assert (command.request_id, command.actor, command.rollout_id) == ("r1", "kim", "")
    desk.book.remember(state_message(replace(kept, request_ids=("r1",))))
    assert (await started).rollout.last_step.reason == "decided"


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (api.StartRolloutRequest(model="churn", request_id="r1"), "FIELD_MISSING", "version"),
        (api.StartRolloutRequest(model="Churn!", request_id="r1"), "MODEL_NAME_INVALID", "model"),
        (api.StartRolloutRequest(model="other", request_id="r1"), "MODEL_NOT_FOUND", "model"),
    ],
)
async def test_a_start_that_names_nothing_is_refused(desk: Desk, request_: Any, code: str, field: str) -> None:
    desk.book.remember(state_message(STATE))
    with pytest.raises(InvalidInput) as caught:
        await desk.servicer.StartRollout(request_, Context())
    assert (caught.value.code, caught.value.field, desk.commands) == (code, field, [])


def start(version: Version) -> api.StartRolloutRequest:
    return api.StartRolloutRequest(model="churn", version=version, request_id="r1")
