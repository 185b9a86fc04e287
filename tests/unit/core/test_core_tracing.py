"""Which span follows from which: events carry the trace, old causes are linked to, heartbeats begin nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tidegate.contracts.codec import Event, Record, encode
from tidegate.core import tracing
from tidegate.core.clock import utc_now
from tidegate.core.telemetry import event_fields
from tidegate.core.tracing import LINK_AFTER, REMEMBERED_MAX, TraceMemory, current_traceparent, processing, sending
from tidegate.v1.events_pb2 import ModelRegistered, TrainingCompleted

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = GIVEN[3:35]


@pytest.fixture
def spans(monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def event(message=None, *, age=timedelta(0), traceparent=GIVEN) -> Event:
    return Event(
        message=message or ModelRegistered(model="m"),
        id="event-1",
        source="test",
        time=utc_now() - age,
        subject="m",
        correlation_id="story-1",
        causation_id="event-0",
        traceparent=traceparent,
        partition=2,
        offset=7,
    )


def trace_of(span) -> str:
    return trace.format_trace_id(span.context.trace_id)


def header(record: Record) -> str:
    return dict(record.headers)["traceparent"].decode()


def test_processing_continues_the_producers_span(spans):
    with processing(event(), "x.registry", "group") as traced:
        assert current_traceparent() == traced.traceparent
    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind) == ("process x.registry", SpanKind.CONSUMER)
    assert trace_of(span) == TRACE_ID
    assert trace.format_span_id(span.parent.span_id) == GIVEN[36:52]
    assert traced.traceparent == f"00-{TRACE_ID}-{trace.format_span_id(span.context.span_id)}-01"
    assert span.attributes["messaging.system"] == "kafka"
    assert span.attributes["messaging.destination.name"] == "x.registry"
    assert span.attributes["messaging.operation.type"] == "process"
    assert span.attributes["messaging.destination.partition.id"] == "2"
    assert span.attributes["messaging.kafka.offset"] == 7
    assert span.attributes["messaging.message.conversation_id"] == "story-1"


def test_sending_puts_its_span_into_the_record_and_keeps_all_else(spans):
    record = encode(event())
    with sending("x.registry", record) as sent:
        pass
    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind, trace_of(span)) == ("send x.registry", SpanKind.PRODUCER, TRACE_ID)
    assert header(sent) == f"00-{TRACE_ID}-{trace.format_span_id(span.context.span_id)}-01"
    assert {name: raw for name, raw in sent.headers if name != "traceparent"} == {
        name: raw for name, raw in record.headers if name != "traceparent"
    }
    assert (sent.key, sent.value) == (record.key, record.value)


def test_what_is_sent_while_an_event_is_processed_follows_from_it(spans):
    with processing(event(), "x.registry", "group"), sending("x.validation", encode(event(traceparent=""))):
        pass
    send, process = spans.get_finished_spans()
    assert send.parent.span_id == process.context.span_id


def test_sending_that_fails_says_so(spans):
    with pytest.raises(RuntimeError), sending("x.registry", encode(event())):
        raise RuntimeError("no broker")
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR


def test_old_cause_is_linked_to(spans):
    with processing(event(age=LINK_AFTER * 2), "x.registry", "group") as traced:
        pass
    (span,) = spans.get_finished_spans()
    assert span.parent is None
    assert trace_of(span) != TRACE_ID
    assert [trace.format_trace_id(link.context.trace_id) for link in span.links] == [TRACE_ID]
    assert traced.traceparent[3:35] == trace_of(span)


@pytest.mark.parametrize("traceparent", ["", "rubbish", "00-" + 32 * "0" + "-" + 16 * "0" + "-01"])
def test_only_a_training_begins_a_trace(spans, traceparent):
    with processing(event(traceparent=traceparent), "x.monitoring", "group") as traced:
        assert traced.traceparent == traceparent
    with sending("x.monitoring", encode(event(traceparent=traceparent))):
        pass
    assert not spans.get_finished_spans()
    training = event(TrainingCompleted(model="m"), traceparent=traceparent)
    with processing(training, "x.training", "group") as traced:
        assert trace.format_trace_id(trace.get_current_span().get_span_context().trace_id) in traced.traceparent
    assert len(spans.get_finished_spans()) == 1


def test_without_a_collector_the_trace_is_passed_on_as_it_came():
    with processing(event(), "x.registry", "group") as traced:
        assert traced.traceparent == GIVEN
        assert current_traceparent() == GIVEN
    with sending("x.registry", encode(event())) as sent:
        assert header(sent) == GIVEN
    memory = TraceMemory()
    memory.learn("story-1", GIVEN, utc_now() - 2 * LINK_AFTER)
    with memory.following("decide", "story-1") as follows:
        assert follows == GIVEN


def test_memory_follows_within_the_hour_and_then_begins_anew(spans):
    memory = TraceMemory()
    memory.learn("story-1", GIVEN, utc_now())
    with memory.following("decide", "story-1") as first:
        assert first[3:35] == TRACE_ID
    assert memory.traceparent("story-1") == GIVEN
    memory.learn("story-1", GIVEN, utc_now() - 2 * LINK_AFTER)
    with memory.following("decide", "story-1") as second:
        assert second[3:35] != TRACE_ID
    with memory.following("decide", "story-1") as third:
        assert third[3:35] == second[3:35]
    assert [len(span.links) for span in spans.get_finished_spans()] == [0, 1, 0]


def test_memory_of_nothing_opens_nothing_and_is_bounded(spans):
    memory = TraceMemory()
    memory.learn("empty", "", utc_now())
    with memory.following("decide", "empty") as follows:
        assert follows == ""
    for number in range(REMEMBERED_MAX + 1):
        memory.learn(str(number), GIVEN, utc_now())
    assert memory.traceparent("0") == ""
    assert memory.traceparent("1") == GIVEN
    assert not spans.get_finished_spans()


def test_what_is_logged_of_an_event_has_no_empty_fields():
    assert event_fields(event()) == {
        "correlation_id": "story-1",
        "event_id": "event-1",
        "causation_id": "event-0",
        "event_type": "ModelRegistered",
        "model": "m",
    }
