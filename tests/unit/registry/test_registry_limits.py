"""What outsiders send can't make an event that the bus refuses: such a row would stop the outbox for ever."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from tidegate.contracts.codec import Event
from tidegate.core.bus import MESSAGE_BYTES_MAX
from tidegate.core.errors import InvalidInput
from tidegate.core.grpc_server import to_status
from tidegate.core.policy import default_policy
from tidegate.registry.agents import RegistryAgents
from tidegate.registry.catalog.outbox import RECORD_BYTES_MAX, Cause
from tidegate.registry.catalog.policies import apply_policy, read_policy
from tidegate.registry.catalog.tables import consumed, outbox
from tidegate.registry.intake.checks import shape_faults
from tidegate.registry.intake.rejection import REASON_CHARS_MAX, REASONS_MAX, Rejected
from tidegate.registry.registration.registrar import Registrar
from tidegate.registry.store import Store
from tidegate.v1.events_pb2 import RegistrationRejected, TrainingCompleted
from tidegate.v1.values_pb2 import Tensor

GRPC_METADATA_BYTES_MAX = 8192


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'registry.sqlite3'}")
    store.migrate()
    yield store
    store.close()


def agents(store, folder) -> RegistryAgents:
    return RegistryAgents(store, Registrar(store, None, work_dir=folder))


def told(message, event_id="training-1") -> Event:
    return Event(
        message=message,
        id=event_id,
        source="test",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        subject=message.model,
        correlation_id="c",
    )


def rows(store, table):
    with store.reading() as connection:
        return connection.execute(select(table)).all()


def wrong(count: int, datatype: str = "?") -> TrainingCompleted:
    training = TrainingCompleted(model="m", request_id="r")
    training.signature.inputs.extend(Tensor(name=f"t{number}", datatype=datatype) for number in range(count))
    return training


async def test_five_thousand_wrong_tensors_are_answered_by_one_short_rejection(store, tmp_path):
    await agents(store, tmp_path).on_training(told(wrong(5000)))
    (row,) = rows(store, outbox)
    assert len(row.value) + len(row.headers) < RECORD_BYTES_MAX < MESSAGE_BYTES_MAX
    reasons = RegistrationRejected.FromString(bytes(row.value)).reasons
    assert len(reasons) == REASONS_MAX + 1
    assert reasons[0].field == "signature.inputs[0]"
    faults = len(shape_faults(wrong(5000)))
    assert (reasons[-1].code, reasons[-1].message) == ("MORE_REASONS", f"and {faults - REASONS_MAX} more")


async def test_a_huge_text_is_not_repeated_in_each_reason(store, tmp_path):
    await agents(store, tmp_path).on_training(told(wrong(60, "x" * 14_000)))
    (row,) = rows(store, outbox)
    reasons = RegistrationRejected.FromString(bytes(row.value)).reasons
    assert max(len(reason.message) for reason in reasons) == REASON_CHARS_MAX


async def test_what_no_answer_can_carry_is_set_aside_and_leaves_nothing(store, tmp_path):
    training = TrainingCompleted(model="m", request_id="r" * RECORD_BYTES_MAX)
    with pytest.raises(InvalidInput, match=f"at most {RECORD_BYTES_MAX} are sent") as caught:
        await agents(store, tmp_path).on_training(told(training))
    assert caught.value.code == "EVENT_TOO_LARGE"
    assert rows(store, outbox) == rows(store, consumed) == []


def test_a_policy_that_the_bus_would_refuse_is_refused(store):
    policy = default_policy("m")
    policy.registration.required.extend(f"tag-{number}-{'x' * 1000}" for number in range(1000))
    cause = Cause(id="1", correlation_id="1", actor="test")
    with pytest.raises(InvalidInput, match="the event PolicyApplied would have"), store.writing() as connection:
        apply_policy(connection, policy, cause)
    with store.reading() as connection:
        assert read_policy(connection, "m")[1] == 0
    assert rows(store, outbox) == []


def test_a_refusal_fits_the_headers_of_grpc():
    status = to_status(Rejected(shape_faults(wrong(5000))))
    # The message goes twice: as it is, and within the details in base64.
    assert len(status.message) + len(status.SerializeToString()) * 4 / 3 < GRPC_METADATA_BYTES_MAX
