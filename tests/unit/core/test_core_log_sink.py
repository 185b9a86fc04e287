"""A log that nobody takes any more does not stop the service that writes it."""

from __future__ import annotations

import os

import structlog

from tidegate.core.telemetry import LogSink


def test_what_can_be_written_is_written():
    reader, writer = os.pipe()
    with open(reader) as there, open(writer, "w") as stream:  # noqa: PTH123  (they are descriptors)
        logger = structlog.PrintLogger(LogSink(stream))
        logger.info("heard")
        assert there.readline() == "heard\n"


def test_a_broken_pipe_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w", buffering=1)  # noqa: PTH123, SIM115  (a descriptor, whose close fails)
    logger = structlog.PrintLogger(LogSink(stream))
    for _ in range(3):
        logger.info("unheard")
    try:
        stream.close()
    except BrokenPipeError:
        return
    raise AssertionError("the pipe was not broken")
