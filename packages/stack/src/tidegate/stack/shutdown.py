"""Ending everything of a stack, whether its supervisor lives or not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import psutil

from tidegate.core.settings import CallerSettings
from tidegate.stack import leftovers
from tidegate.stack.layout import Layout
from tidegate.stack.model_servers import stop_model_servers
from tidegate.stack.parts import STOPPED_FIRST
from tidegate.stack.ports import LOOPBACK, PortPlan
from tidegate.stack.supervisor import Supervisor
from tidegate.stack.tokens import LOCAL

STOP_S: Final = 60.0
POLL_S: Final = 0.1


def stop_everything(supervisor: Supervisor, layout: Layout, ports: PortPlan | None) -> bool:
    """Stop the parts, those that give orders first, and the model servers; return whether anything ran."""
    alive = supervisor.is_alive()
    if alive:
        _stop_parts(supervisor, STOPPED_FIRST)
    else:
        # A hung supervisor would start again what ends.
        leftovers.end(leftovers.marked(layout, parts=lambda name: not name))
    ended = leftovers.end(leftovers.marked(layout, parts=lambda name: name in STOPPED_FIRST))
    if ports is not None:
        token = layout.tokens / LOCAL
        caller = CallerSettings(token_file=token if token.exists() else None)
        for port in (ports.modelhost, ports.modelhost_sandbox):
            stop_model_servers(f"{LOOPBACK}:{port}", caller)
    if alive:
        processes = leftovers.marked(layout)
        supervisor.shutdown()
        psutil.wait_procs(processes, timeout=STOP_S)
    swept = end_leftovers(layout)
    leftovers.remove_sockets(layout)
    return alive or bool(ended) or swept


def end_leftovers(layout: Layout) -> bool:
    """End all processes of the stack without its supervisor's help; return whether there were any."""
    # The supervisor goes first: it would start again what ends. Model servers go last: their hosts would, too.
    ended = leftovers.end(leftovers.marked(layout, parts=lambda name: not name))
    ended += leftovers.end(leftovers.marked(layout))
    ended += leftovers.end(leftovers.model_servers(layout))
    return bool(ended)


def _stop_parts(supervisor: Supervisor, names: Sequence[str]) -> None:
    known = supervisor.states()
    waited_for = [name for name in names if name in known]
    for name in waited_for:
        supervisor.stop_part(name)
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline:
        states = supervisor.states()
        if all(states[name].pid == 0 for name in waited_for):
            return
        time.sleep(POLL_S)
