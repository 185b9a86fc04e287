"""Which trace a rollout's steps belong to: its version's, whoever or whatever moves it, also after a restart."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tidegate.contracts.codec import Event
from tidegate.core import tracing
from tidegate.core.clock import utc_now
from tidegate.deployer.tracing import RolloutTraces
from tidegate.v1.events_pb2 import ModelBlessed
from tidegate.v1.monitoring_events_pb2 import MetricBreach, MetricReport


@dataclass
class Snapshot:
    """What Kafka gives back of a snapshot."""

    headers: tuple[tuple[str, bytes], ...]
    timestamp: int


@pytest.fixture
def spans(monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


@pytest.fixture
def traces():
    return RolloutTraces("group")


def given(version: str) -> str:
    return f"00-{version.replace('.', '') * 10 + 'ab'}-b7ad6b7169203331-01"


def event(message, *, correlation_id="", traceparent=""):
    return Event(
        message=message,
        id="e",
        source="test",
        time=utc_now(),
        subject="fraud",
        correlation_id=correlation_id,
        traceparent=traceparent,
    )


def decided(script, traces, line, sent=None):
    """Play ``line`` as the worker does; return the traceparents of its steps and what was bound to the log."""
    before = script.state
    decision = script.play(line)
    with traces.deciding(sent, "x.topic", before, decision):
        bound = structlog.contextvars.get_contextvars().get("correlation_id")
        return [traces.of_step(decision, step) for step in decision.steps], bound


def blessed(script, traces, version):
    script.play(f"register {version}")
    sent = event(ModelBlessed(), correlation_id=f"k{version}", traceparent=given(version))
    return decided(script, traces, f"bless {version} settle_s=10", sent)


def trace_ids(traceparents):
    return {traceparent[3:35] for traceparent in traceparents}


def test_steps_that_nobody_sent_follow_from_the_blessing(script, traces, spans):
    (opened,), bound = blessed(script, traces, "1.0.0")
    assert (opened[3:35], bound) == (given("1.0.0")[3:35], "k1.0.0")
    (started,), bound = decided(script, traces, "ready 1.0.0")
    assert (started[3:35], bound) == (given("1.0.0")[3:35], "k1.0.0")
    assert [span.name for span in spans.get_finished_spans()] == ["process x.topic", "decide"]
    process, decide = spans.get_finished_spans()
    assert decide.parent.span_id == process.context.span_id


def test_what_moves_nothing_has_no_span_and_the_story_in_its_log(script, traces, spans):
    blessed(script, traces, "1.0.0")
    spans.clear()
    steps, bound = decided(script, traces, "wait 1")
    assert (steps, bound) == ([], "k1.0.0")
    assert not spans.get_finished_spans()


def test_rollback_follows_from_the_breach_and_its_end_from_the_rollback(script, traces, spans):
    blessed(script, traces, "1.0.0")
    for line in ("ready 1.0.0", "ack", "wait 10"):
        decided(script, traces, line)
    blessed(script, traces, "1.1.0")
    decided(script, traces, "ready 1.1.0")
    spans.clear()
    sent = event(MetricBreach(), correlation_id="k1.1.0", traceparent=given("1.1.0"))
    (going_back,), _ = decided(script, traces, "breach errors", sent)
    (ended, *_), _ = decided(script, traces, "ack")
    assert trace_ids([going_back, ended]) == {given("1.1.0")[3:35]}
    process, decide = spans.get_finished_spans()
    assert decide.parent.span_id == process.context.span_id


def test_end_of_a_rollout_and_the_begin_of_the_next_belong_to_their_own_traces(script, traces, spans):
    blessed(script, traces, "1.0.0")
    decided(script, traces, "ready 1.0.0")
    decided(script, traces, "ack")
    blessed(script, traces, "1.1.0")
    traceparents, _ = decided(script, traces, "wait 10")
    ended, begun = traceparents[0], traceparents[-1]
    assert (ended[3:35], begun[3:35]) == (given("1.0.0")[3:35], given("1.1.0")[3:35])


def test_heartbeats_have_no_trace_and_take_none_away(script, traces, spans):
    blessed(script, traces, "1.0.0")
    spans.clear()
    sent = event(MetricReport(), correlation_id="k1.0.0")
    assert decided(script, traces, "heartbeat", sent)[0] == []
    assert not spans.get_finished_spans()
    assert traces.traceparent(script.state.rollout)[3:35] == given("1.0.0")[3:35]


def test_restarted_deployer_goes_on_in_the_trace_of_the_snapshot(script, traces, spans):
    blessed(script, traces, "1.0.0")
    carried = traces.traceparent(script.state.rollout)
    later = RolloutTraces("group")
    later.restore(script.state, Snapshot((("traceparent", carried.encode()),), int(utc_now().timestamp() * 1000)))
    (started,), _ = decided(script, later, "ready 1.0.0")
    assert started[3:35] == given("1.0.0")[3:35]


def test_without_a_collector_steps_pass_the_producers_trace_on(script, traces):
    (opened,), _ = blessed(script, traces, "1.0.0")
    (started,), _ = decided(script, traces, "ready 1.0.0")
    assert opened == started == given("1.0.0")


def test_versions_without_a_trace_get_none(script, traces, spans):
    script.play("register 1.0.0")
    steps, _ = decided(script, traces, "bless 1.0.0", event(ModelBlessed(), correlation_id="k1.0.0"))
    assert steps == [""]
    assert not spans.get_finished_spans()
