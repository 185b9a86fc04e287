"""What every service process says of itself: structured logs and metrics."""

from __future__ import annotations

import logging
import sys
from typing import TextIO, cast

import structlog

from tidegate.core.metrics import serve_metrics
from tidegate.core.settings import ServiceSettings

# aiokafka and faust log every failed connection attempt (about 930 ERROR lines in an 11 s broker outage).
_NOISY_LOGGERS = ("aiokafka", "faust", "mode", "kafka", "asyncio", "tidegate.faust")


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
    """Set up logs and metrics of the process of ``service``; metrics are served until it ends.

    Raises:
        Unavailable: The metrics' port is taken.

    """
    configure_logs(service, settings.log_level)
    serve_metrics(settings)


def configure_logs(service: str, level: str = "INFO") -> None:
    """Set up structlog and the standard library's logging: one JSON object a line, or coloured text on a terminal."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
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
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s", force=True
    )
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
