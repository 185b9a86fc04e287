"""The event codec against the CloudEvents SDK as oracle, and against bad input."""

import uuid
from datetime import UTC, datetime

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, to_binary
from cloudevents.core.formats.base import Format
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contracts.codec import (
    EVENT_ID_NAMESPACE,
    JSON,
    PROTOBUF,
    TYPE_PREFIX,
    Event,
    InvalidEvent,
    Record,
    decode,
    derived_event_id,
    encode,
    offset_event_id,
    timed_event_id,
)
from tidegate.contracts.topics import TOPIC_BY_MESSAGE
from tidegate.v1 import events_pb2, monitoring_events_pb2, rollout_events_pb2

RECEIVED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class BytesFormat(Format):
    """Hands the body through, so that the SDK judges the attributes alone."""

    def read(self, event_factory, data):
        raise AssertionError("binary mode only")

    def write(self, event):
        raise AssertionError("binary mode only")

    def write_data(self, data, datacontenttype):
        return data

    def read_data(self, body, datacontenttype):
        return body

    def get_content_type(self):
        return PROTOBUF


def decoded(record: Record, topic: str = "tidegate.training") -> Event:
    return decode(
        topic=topic, partition=2, offset=7, value=record.value, headers=record.headers, received_time=RECEIVED
    )


def training(model: str = "flight-delay") -> events_pb2.TrainingCompleted:
    message = events_pb2.TrainingCompleted(model=model, request_id="r-1", tags={"a": "b"})
    message.metrics.add(name="roc_auc", value=0.75, higher_is_better=True)
    return message


def event(message=None, **changes) -> Event:
    fields = {
        "message": message or training(),
        "id": "id-1",
        "source": "tidegate/test",
        "time": datetime(2026, 3, 4, 5, 6, 7, 891011, tzinfo=UTC),
        "subject": "flight-delay",
        "correlation_id": "c-1",
        "causation_id": "p-1",
        "sequence": 9,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    return Event(**{**fields, **changes})


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)
times = st.datetimes(min_value=datetime(2000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(source=texts, event_id=texts, correlation=texts, time=times, sequence=st.integers(1, 2**63))
def test_the_sdk_reads_what_we_write(source, event_id, correlation, time, sequence):
    record = encode(event(source=source, id=event_id, correlation_id=correlation, time=time, sequence=sequence))
    seen = from_binary(
        KafkaMessage(headers=dict(record.headers), key=record.key, value=record.value), BytesFormat(), CloudEvent
    )
    assert seen.get_id() == event_id
    assert seen.get_source() == source
    assert seen.get_type() == TYPE_PREFIX + "TrainingCompleted"
    assert seen.get_subject() == "flight-delay"
    assert seen.get_time() == time
    assert seen.get_datacontenttype() == PROTOBUF
    assert seen.get_extension("correlationid") == correlation
    assert seen.get_extension("sequence") == str(sequence)
    assert seen.get_data() == record.value


@given(source=texts, event_id=texts, time=times)
def test_we_read_what_the_sdk_writes(source, event_id, time):
    theirs = CloudEvent(
        attributes={
            "id": event_id,
            "source": source,
            "type": "tidegate.v1.TrainingCompleted",
            "time": time,
            "datacontenttype": PROTOBUF,
        },
        data=training().SerializeToString(),
    )
    message = to_binary(theirs, BytesFormat())
    ours = decoded(Record(key=b"", value=message.value, headers=tuple(message.headers.items())))
    assert (ours.id, ours.source, ours.time, ours.message) == (event_id, source, time, training())


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
def test_an_event_survives_the_wire(content_type):
    assert decoded(encode(event(), content_type=content_type)) == event()


@pytest.mark.parametrize("name", sorted(TOPIC_BY_MESSAGE))
def test_every_message_of_the_topic_table_survives_the_wire(name):
    module = next(m for m in (events_pb2, rollout_events_pb2, monitoring_events_pb2) if hasattr(m, name))
    message = getattr(module, name)(model="flight-delay")
    assert decoded(encode(event(message))).message == message


def test_outsiders_need_only_ce_type():
    seen = decoded(Record(key=b"", value=training().SerializeToString(), headers=(("ce_type", b"TrainingCompleted"),)))
    assert seen.id == offset_event_id("tidegate.training", 2, 7)
    assert seen.id == str(uuid.uuid5(EVENT_ID_NAMESPACE, "tidegate.training/2/7"))
    assert seen.correlation_id == seen.id
    assert seen.time == RECEIVED
    assert seen.subject == "flight-delay"


def test_json_with_unknown_fields_is_read():
    value = b'{"model": "flight-delay", "from_the_future": 1, "artifact": {"size_bytes": "12"}}'
    headers = (("ce_type", b"TrainingCompleted"), ("content-type", b"application/json; charset=utf-8"))
    seen = decoded(Record(key=b"", value=value, headers=headers))
    assert seen.message.artifact.size_bytes == 12


@pytest.mark.parametrize(
    ("headers", "value", "code"),
    [
        ((), b"", "EVENT_TYPE_MISSING"),
        ((("ce_type", b""),), b"", "EVENT_TYPE_MISSING"),
        ((("ce_type", b"tidegate.v1.Nothing"),), b"", "EVENT_TYPE_UNKNOWN"),
        ((("ce_type", b"Policy"),), b"", "EVENT_TYPE_UNKNOWN"),
        ((("ce_type", b"\xff\xfe"),), b"", "HEADER_NOT_TEXT"),
        ((("ce_type", b"TrainingCompleted"),), b"{not protobuf", "BODY_UNREADABLE"),
        ((("ce_type", b"TrainingCompleted"), ("content-type", b"application/json")), b"\x0a\x01", "BODY_UNREADABLE"),
        ((("ce_type", b"TrainingCompleted"), ("content-type", b"application/json")), b"\xff", "BODY_UNREADABLE"),
        ((("ce_type", b"ModelRegistered"), ("content-type", b"application/json")), b"{}", "BODY_UNREADABLE"),
        ((("ce_type", b"TrainingCompleted"), ("ce_time", b"yesterday")), b"", "TIME_UNREADABLE"),
        ((("ce_type", b"TrainingCompleted"), ("ce_sequence", b"-1")), b"", "SEQUENCE_UNREADABLE"),
    ],
)
def test_bad_input_is_named(headers, value, code):
    with pytest.raises(InvalidEvent) as caught:
        decoded(Record(key=b"", value=value, headers=headers))
    assert caught.value.code == code


@given(value=st.binary(max_size=300), content_type=st.sampled_from([PROTOBUF, JSON]))
def test_rubbish_is_an_event_or_an_invalid_event(value, content_type):
    headers = (("ce_type", b"TrainingCompleted"), ("content-type", content_type.encode()))
    try:
        seen = decoded(Record(key=b"", value=value, headers=headers))
    except InvalidEvent as error:
        assert error.code == "BODY_UNREADABLE"
    else:
        assert seen.type == "TrainingCompleted"


def test_derived_ids_depend_on_type_cause_and_number():
    ids = {
        derived_event_id("ModelRegistered", "a"),
        derived_event_id("ModelRegistered", "b"),
        derived_event_id("AliasMoved", "a"),
        derived_event_id("ModelRegistered", "a", 1),
        timed_event_id("RolloutStep", "a", 1),
    }
    assert len(ids) == 5
    assert derived_event_id("ModelRegistered", "a") == derived_event_id("ModelRegistered", "a", 0)
