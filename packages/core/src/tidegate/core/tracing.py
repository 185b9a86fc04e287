"""Traces: W3C ``traceparent`` in event headers and gRPC metadata, spans to an OTLP collector.

Nothing is recorded unless a collector is named; also without one, the ``traceparent`` that an event brings is passed
on. A trace begins with an act (a training, a person's command), never with what time repeats: heartbeats, reports and
batches of requests have no spans of their own. Names and attributes: OpenTelemetry's semantic conventions for messaging
and RPC.
"""

from __future__ import annotations

import os
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidegate.contracts.codec import Event, Record
from tidegate.contracts.topics import TRAINING
from tidegate.core.clock import utc_now
from tidegate.core.metrics import topic_label

HEADER: Final = "traceparent"
# A cause that is older is linked to, since nobody can read a trace that lasts for days.
LINK_AFTER: Final = timedelta(hours=1)
REMEMBERED_MAX: Final = 1_000

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_TRACER: Final = trace.get_tracer("tidegate")
_STANDARD_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class TracingSettings(BaseSettings):
    """Where spans go (prefix ``TIDEGATE_OTEL_``); OpenTelemetry's own OTEL_... variables hold too."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_OTEL_", frozen=True)

    endpoint: str = Field(
        "", description="OTLP/HTTP collector, http://host:4318; empty = OTEL_EXPORTER_OTLP_ENDPOINT, else no traces."
    )


def start_tracing(service: str, settings: TracingSettings | None = None) -> None:
    """Have spans of this process exported as ``tidegate-<service>``; nothing happens if no collector is named."""
    endpoint = (settings or TracingSettings()).endpoint
    if not endpoint and not any(os.environ.get(name) for name in _STANDARD_ENDPOINTS):
        return
    # Imported here: most processes record nothing and need not wait for it.
    from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)
    attributes = {
        "service.name": f"tidegate-{service}",
        "service.namespace": "tidegate",
        "service.instance.id": str(uuid.uuid4()),
    }
    provider = TracerProvider(resource=Resource.create(attributes))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def current_traceparent() -> str:
    """Return the context of the span that is open here, or ""."""
    return traceparent_of(trace.get_current_span())


def traceparent_of(span: Span) -> str:
    """Return the context of ``span`` as a W3C traceparent; "" if it has none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return carrier.get(HEADER, "")


def _span_of(traceparent: str) -> Span:
    return trace.get_current_span(_PROPAGATOR.extract({HEADER: traceparent}))


def _start(name: str, kind: SpanKind, parent: str, since: datetime | None, attributes: Mapping[str, Any]) -> Span:
    """Start a span below ``parent``; if that began long before (``since``), a new trace with a link to it."""
    above = _span_of(parent)
    if since is None or utc_now() - since <= LINK_AFTER:
        context = trace.set_span_in_context(above)
        return _TRACER.start_span(name, context, kind, attributes)
    links = [Link(above.get_span_context())]
    return _TRACER.start_span(name, trace.set_span_in_context(trace.INVALID_SPAN), kind, attributes, links)


@contextmanager
def sending(full_name: str, record: Record, *, begins: bool = False) -> Iterator[Record]:
    """Send ``record`` to a topic within a span; yields the record that carries it.

    A record that belongs to no trace is sent without a span, unless it ``begins`` one.
    """
    headers = {name: raw for name, raw in record.headers if name != HEADER}
    parent = dict(record.headers).get(HEADER, b"").decode(errors="replace") or current_traceparent()
    if not begins and not _span_of(parent).get_span_context().is_valid:
        yield record
        return
    attributes = _message_attributes("send", full_name) | {
        "messaging.message.id": headers.get("ce_id", b"").decode(),
        "messaging.message.conversation_id": headers.get("ce_correlationid", b"").decode(),
        "messaging.kafka.message.key": record.key.decode(errors="replace"),
        "cloudevents.event_type": headers.get("ce_type", b"").decode(),
    }
    span = _start(f"send {full_name}", SpanKind.PRODUCER, parent, None, attributes)
    # Not the current span: several are open while a batch is sent, and none is below another.
    try:
        carried = traceparent_of(span)
        yield replace(record, headers=(*headers.items(), (HEADER, carried.encode()))) if carried else record
    except Exception as error:
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, str(error)))
        raise
    finally:
        span.end()


@contextmanager
def processing(event: Event, full_name: str, group: str) -> Iterator[Event]:
    """Process ``event`` within a span that continues its trace; yields the event with that span as its traceparent.

    A training begins a trace where its producer began none; other events without one are processed without a span.
    """
    known = _span_of(event.traceparent).get_span_context().is_valid
    if not known and topic_label(full_name) != TRAINING.name:
        yield event
        return
    attributes = _message_attributes("process", full_name) | {
        "messaging.consumer.group.name": group,
        "messaging.destination.partition.id": str(event.partition),
        "messaging.kafka.offset": event.offset,
        "messaging.message.id": event.id,
        "messaging.message.conversation_id": event.correlation_id,
        "messaging.kafka.message.key": event.subject,
        "cloudevents.event_type": event.type,
    }
    since = event.time if known else None
    with _opened(_start(f"process {full_name}", SpanKind.CONSUMER, event.traceparent, since, attributes)) as span:
        yield replace(event, traceparent=traceparent_of(span) or event.traceparent)


@contextmanager
def serving(method: str, traceparent: str) -> Iterator[Span]:
    """Answer the gRPC call ``method`` (package.Service/Method) within a span."""
    service, _, name = method.rpartition("/")
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    with _opened(_start(method, SpanKind.SERVER, traceparent, None, attributes)) as span:
        yield span


@contextmanager
def inner(name: str) -> Iterator[None]:
    """Do a part of the work within a span of its own; nothing happens outside of a trace."""
    if not trace.get_current_span().get_span_context().is_valid:
        yield
        return
    with _opened(_TRACER.start_span(name)):
        yield


@contextmanager
def _opened(span: Span) -> Iterator[Span]:
    with trace.use_span(span, end_on_exit=True):
        yield span


def _message_attributes(operation: str, full_name: str) -> dict[str, Any]:
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": full_name,
    }


class TraceMemory:
    """Which span a rollout's later events follow from, by correlation id; the oldest are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[str, datetime]] = OrderedDict()

    def learn(self, correlation_id: str, traceparent: str, time: datetime) -> None:
        """Remember ``traceparent`` (of ``time``) for what follows; nothing happens if it is empty."""
        if traceparent:
            self._known[correlation_id] = (traceparent, time)
            self._known.move_to_end(correlation_id)
            while len(self._known) > REMEMBERED_MAX:
                self._known.popitem(last=False)

    def traceparent(self, correlation_id: str) -> str:
        """Return what was remembered, or ""."""
        return self._known.get(correlation_id, ("", utc_now()))[0]

    @contextmanager
    def following(self, name: str, correlation_id: str) -> Iterator[str]:
        """Do something within a span that follows from what was remembered; yields its traceparent, or ""."""
        traceparent, time = self._known.get(correlation_id, ("", utc_now()))
        if not traceparent:
            yield ""
            return
        attributes = {"messaging.message.conversation_id": correlation_id}
        with _opened(_start(name, SpanKind.INTERNAL, traceparent, time, attributes)) as span:
            follows = traceparent_of(span) or traceparent
            # Later ones come next to it, not below; after a link, in its new trace.
            if utc_now() - time > LINK_AFTER:
                self.learn(correlation_id, follows, utc_now())
            yield follows
