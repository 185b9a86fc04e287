"""What every service process says of itself: structured logs, metrics and traces."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast

import structlog
from opentelemetry import trace
from structlog.contextvars import bound_contextvars

from tidegate.contracts.codec import Event
from tidegate.core.metrics import serve_metrics
from tidegate.core.settings import ServiceSettings
from tidegate.core.tracing import processing, start_tracing

# aiokafka and faust log every failed connection attempt (about 930 ERROR lines in an 11 s broker outage).
_NOISY_LOGGERS = ("aiokafka", "faust", "mode", "kafka", "asyncio", "tidegate.faust")
# One line for each batch of spans that a collector did not take would drown the rest.
_QUIET_LOGGERS = ("opentelemetry", "urllib3")


class LogSink:
    """A stream whose failures do not reach whoever logs: a decision stands, whether or not it can be told.

    A supervisor that dies takes the other end of the pipe with it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``, or lose it."""
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Hand on what was written, or lose it."""
        try:
            self._stream.flush()
        except OSError:
            return


def start_telemetry(service: str, settings: ServiceSettings) -> None:
    """Set up logs, metrics and traces of the process of ``service``, until it ends.

    Raises:
        Unavailable: The metrics' port is taken.

    """
    configure_logs(service, settings.log_level)
    serve_metrics(settings)
    start_tracing(service)


@contextmanager
def handling(event: Event, full_name: str, group: str) -> Iterator[Event]:
    """Handle ``event`` of a topic within a span, with what tells it apart in every line that is logged.

    Yields the event as the handler shall see it: what it causes continues the span.
    """
    with processing(event, full_name, group) as traced, bound_contextvars(**event_fields(event)):
        yield traced


def event_fields(event: Event) -> dict[str, str]:
    """Return what is logged of the event that is being handled; one correlation id finds a version's whole story."""
    fields = {
        "correlation_id": event.correlation_id,
        "event_id": event.id,
        "causation_id": event.causation_id,
        "event_type": event.type,
        "model": event.subject,
    }
    return {name: text for name, text in fields.items() if text}


def _add_trace(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        line["trace_id"] = trace.format_trace_id(context.trace_id)
        line["span_id"] = trace.format_span_id(context.span_id)
    return line


def configure_logs(service: str, level: str = "INFO") -> None:
    """Set up structlog and the standard library's logging: one JSON object a line, or coloured text on a terminal."""

    def add_service(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        line["service"] = service
        return line

    shared: list[structlog.typing.Processor] = [
        add_service,
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", LogSink(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    # Libraries log by the standard library: their lines look like ours.
    handler = logging.StreamHandler(cast("TextIO", LogSink(sys.stderr)))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, structlog.processors.format_exc_info],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
