"""Bringing the parts up in order, and waiting until each answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from tidegate.core.errors import Unavailable
from tidegate.stack.child import log_tail
from tidegate.stack.layout import Layout
from tidegate.stack.object_store import Credentials
from tidegate.stack.parts import FIRST, SECOND, STORES, WAITED_FOR, furnish, parts
from tidegate.stack.ports import PortPlan
from tidegate.stack.reporter import Reporter
from tidegate.stack.supervisor import ProcessState, Supervisor

READY_S: Final = 120.0
POLL_S: Final = 0.1
STOPPED_S: Final = 60.0
_ENDED: Final = frozenset({"STOPPED", "EXITED", "FATAL"})
# A part that was started this often within one wait will not come up by waiting longer.
STARTS_MAX: Final = 4


def start_parts(
    supervisor: Supervisor,
    layout: Layout,
    *,
    names: Sequence[str],
    ports: PortPlan,
    credentials: Credentials,
    reporter: Reporter,
) -> None:
    """Have the parts ``names`` run, and return when all are ready.

    Raises:
        Unavailable: One does not become ready; the message has the end of its log.

    """
    looked_at = parts(ports, credentials)

    def start(those: Sequence[str]) -> None:
        for name in those:
            if name in names:
                supervisor.start_part(name)

    def wait(those: Sequence[str]) -> None:
        for name in those:
            if name in names:
                wait_until_ready(supervisor, layout, name, looked_at[name].is_ready)
                reporter.ready(name)

    start(FIRST)
    wait(STORES)
    furnish(ports, credentials)
    if set(SECOND) & set(names):
        reporter.say("starting the services")
    start(SECOND)
    wait(WAITED_FOR)


def wait_until_ready(
    supervisor: Supervisor, layout: Layout, name: str, is_ready: Callable[[], bool], *, deadline_s: float = READY_S
) -> None:
    """Return when the part runs and answers.

    Raises:
        Unavailable: It dies again and again, or does not answer within ``deadline_s``.

    """
    deadline = time.monotonic() + deadline_s
    starts: set[int] = set()
    while True:
        state = supervisor.states()[name]
        if state.state == "RUNNING" and is_ready():
            return
        starts.add(state.started_s)
        fault = _fault(state, len(starts), late=time.monotonic() > deadline)
        if fault:
            log = layout.log(name)
            raise Unavailable(
                f"{name} {fault}; the end of its log:\n{log_tail(log)}",
                code="PART_NOT_READY",
                hint=f"the whole log is {log}",
            )
        time.sleep(POLL_S)


def wait_until_stopped(supervisor: Supervisor, name: str, *, deadline_s: float = STOPPED_S) -> None:
    """Return when no process of the part runs.

    Raises:
        Unavailable: One does still when ``deadline_s`` is over.

    """
    deadline = time.monotonic() + deadline_s
    while (state := supervisor.states()[name]).state not in _ENDED:
        if time.monotonic() > deadline:
            raise Unavailable(f"{name} does not stop (it is {state.state.lower()})", code="PART_NOT_STOPPED")
        time.sleep(POLL_S)


def _fault(state: ProcessState, start_count: int, *, late: bool) -> str:
    if state.state == "FATAL" or start_count > STARTS_MAX:
        return f"ends again and again (last exit code {state.exit_status}) {state.problem}".rstrip()
    return f"is not ready in time (it is {state.state.lower()})" if late else ""
