"""Structured logs: one JSON object a line on standard error, or coloured text on a terminal."""

from __future__ import annotations

import logging
import sys

import structlog

# aiokafka and faust log every failed connection attempt (about 930 ERROR lines in an 11 s broker outage).
_NOISY_LOGGERS = ("aiokafka", "faust", "mode", "kafka", "asyncio", "tidegate.faust")


def configure_logs(service: str, level: str = "INFO") -> None:
    """Set up structlog and the standard library's logging for the process of ``service``."""
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
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s", force=True
    )
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
