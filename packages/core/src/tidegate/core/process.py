"""The life of a service process: run until a signal asks it to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from tidegate.core.errors import TidegateError

log = structlog.get_logger(__name__)


async def wait_for_signal() -> str:
    """Return the name of the signal (SIGTERM or SIGINT) that asks the process to stop."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[str] = loop.create_future()

    def ask(name: str) -> None:
        if not asked.done():
            asked.set_result(name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number.name)
    return await asked


async def until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` until it ends or a signal asks the process to stop (then it is cancelled, and cleans up).

    An error that ends ``work`` is raised again.
    """
    asked = asyncio.create_task(wait_for_signal())
    working = asyncio.create_task(work)
    await asyncio.wait({asked, working}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        log.info("stopping", signal=asked.result())
        working.cancel()
    asked.cancel()
    ended = (await asyncio.gather(working, return_exceptions=True))[0]
    if isinstance(ended, Exception):
        raise ended


def run(serve: Callable[[], Awaitable[None]]) -> None:
    """Run ``serve`` to its end.

    An error of ours ends the process with code 1 and one line in the log, anything else with its trace.
    """
    try:
        asyncio.run(_as_coroutine(serve))
    except TidegateError as error:
        log.error("the service ends", code=error.code, error=str(error))  # noqa: TRY400  (the line says all)
        sys.exit(1)


async def _as_coroutine(serve: Callable[[], Awaitable[None]]) -> None:
    await serve()
