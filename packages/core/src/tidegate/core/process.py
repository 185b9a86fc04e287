"""The life of a service process: run until a signal asks it to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NoReturn

import structlog

from tidegate.core.errors import TidegateError

LEFTOVERS_S: Final = 2.0
# Supervisors and container engines kill after ten seconds and more.
STOP_WITHIN_S: Final = 6.0

log = structlog.get_logger(__name__)


async def wait_for_signal() -> str:
    """Return the name of the signal (SIGTERM or SIGINT) that asks the process to stop."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[str] = loop.create_future()

    def ask(name: str) -> None:
        if not asked.done():
            asked.set_result(name)

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, ask, number.name)
    try:
        return await asked
    finally:
        # Whoever does not wait any more can't answer either: the next signal ends the process.
        for number in numbers:
            loop.remove_signal_handler(number)


async def until_signal(
    work: Coroutine[Any, Any, None],
    *,
    stop_within_s: float = STOP_WITHIN_S,
    end_process: Callable[[], NoReturn] | None = None,
) -> None:
    """Run ``work`` until it ends or a signal asks the process to stop (then it is cancelled, and cleans up).

    An error that ends ``work`` is raised again. Work that does not clean up within ``stop_within_s`` seconds ends with
    the process (by ``end_process``, default: at once, with code 0): leaving a consumer group can hang while the group
    rebalances, and nothing is lost, since what is not committed comes again.
    """
    asked = asyncio.create_task(wait_for_signal())
    working = asyncio.create_task(work)
    await asyncio.wait({asked, working}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        log.info("stopping", signal=asked.result())
        working.cancel()
        await asyncio.wait({working}, timeout=stop_within_s)
    asked.cancel()
    if not working.done():
        log.warning("the work does not stop, the process ends", waited_s=stop_within_s)
        (end_process or _end_process)()
    ended = (await asyncio.gather(working, return_exceptions=True))[0]
    if isinstance(ended, Exception):
        raise ended


def _end_process() -> NoReturn:
    os._exit(0)


async def first_of(what: str, *parts: Awaitable[None]) -> None:
    """Wait until one of the parts of ``what`` ends, which is a fault, and cancel the others.

    Raises:
        TidegateError: A part ended by itself (code PART_ENDED); an error that ended it is raised as it is.

    """
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise TidegateError(f"a part of {what} ended by itself", code="PART_ENDED")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(serve: Callable[[], Awaitable[None]]) -> None:
    """Run ``serve`` to its end.

    An error of ours ends the process with code 1 and one line in the log, anything else with its trace.
    """
    try:
        asyncio.run(_to_the_end(serve))
    except TidegateError as error:
        log.error("the service ends", code=error.code, error=str(error))  # noqa: TRY400  (the line says all)
        sys.exit(1)


async def _to_the_end(serve: Callable[[], Awaitable[None]]) -> None:
    try:
        await serve()
    except TidegateError as error:
        if await _leftovers():
            log.error("the service ends", code=error.code, error=str(error))  # noqa: TRY400  (the line says all)
            os._exit(1)
        raise
    if left := await _leftovers():
        # A task of a library that swallows its cancellation would keep the process for ever. Nothing is lost: what is
        # not committed comes again.
        log.warning("tasks do not end, the process does", tasks=left, waited_s=LEFTOVERS_S)
        os._exit(0)


async def _leftovers() -> list[str]:
    """Cancel what still runs; return the names of what does not end within LEFTOVERS_S."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if not left:
        return []
    _, stuck = await asyncio.wait(left, timeout=LEFTOVERS_S)
    return sorted(f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', '?')})" for task in stuck)
