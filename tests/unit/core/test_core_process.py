"""A service ends when it is asked to, also when its work does not."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tidegate.core.errors import TidegateError, Unavailable
from tidegate.core.process import first_of, until_signal


def end_process():
    raise SystemExit(0)


def ask():
    os.kill(os.getpid(), signal.SIGTERM)


async def test_work_that_is_asked_to_stop_cleans_up():
    cleaned = []

    async def work():
        ask()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    await until_signal(work(), end_process=end_process)
    assert cleaned == [True]


async def test_work_that_does_not_stop_ends_with_the_process():
    free = asyncio.Event()

    async def work():
        ask()
        try:
            await asyncio.Event().wait()
        finally:
            await free.wait()  # as a consumer that leaves its group while it rebalances

    with pytest.raises(SystemExit):
        await until_signal(work(), stop_within_s=0.01, end_process=end_process)
    free.set()


async def test_an_error_of_the_work_is_raised():
    async def work():
        raise Unavailable("no broker", code="BROKER_UNAVAILABLE")

    with pytest.raises(Unavailable, match="no broker"):
        await until_signal(work(), end_process=end_process)


async def test_a_signal_that_nobody_waits_for_has_its_usual_effect():
    async def work():
        return

    await until_signal(work(), end_process=end_process)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


async def test_the_first_part_that_fails_ends_the_others():
    cancelled = []

    async def lasting():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def failing():
        await asyncio.sleep(0)
        raise Unavailable("gone", code="GONE")

    with pytest.raises(Unavailable):
        await first_of("a service", lasting(), failing())
    assert cancelled == [True]


async def test_a_part_that_ends_by_itself_is_a_fault():
    async def ending():
        return

    with pytest.raises(TidegateError, match="a part of a service ended by itself"):
        await first_of("a service", ending(), asyncio.Event().wait())
