"""Processes of a stack that outlived their supervisor: found by a mark in their environment, not by their names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from typing import Final

import psutil

from tidegate.modelhost.processes import MARK_NAME
from tidegate.modelhost.processes import mark as model_server_mark
from tidegate.stack.layout import Layout
from tidegate.stack.object_store import PROCESS_NAME
from tidegate.stack.supervisor import MARKER, PART_MARKER

TERM_S: Final = 20.0
KILL_S: Final = 10.0


def marked(layout: Layout, *, parts: Callable[[str], bool] = lambda _: True) -> list[psutil.Process]:
    """Return the processes that this stack started; ``parts`` says of which part (the supervisor's name is empty)."""
    mark = str(layout.root)
    found = []
    for process in psutil.process_iter():
        environment = _environment(process)
        if environment.get(MARKER) == mark:
            name = environment.get(PART_MARKER, "")
        elif MARKER not in environment and _is_object_store(process, layout):
            name = "object-store"
        else:
            continue
        if parts(name):
            found.append(process)
    return found


def _is_object_store(process: psutil.Process, layout: Layout) -> bool:
    """Return whether it is the object store, which writes over its environment and command line to hide keys."""
    try:
        return (
            process.name() == PROCESS_NAME
            and process.uids().real == os.getuid()
            and process.cwd() == str(layout.part("object-store"))
        )
    except (psutil.Error, OSError):
        return False


def _environment(process: psutil.Process) -> dict[str, str]:
    if process.pid == os.getpid():
        return {}
    try:
        if process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
            return {}
        return dict(process.environ())
    except (psutil.Error, OSError):
        # It is gone, or not ours to see.
        return {}


def model_servers(layout: Layout) -> list[psutil.Process]:
    """Return the processes of the model servers of this stack's hosts; they carry a mark of their host's."""
    marks = tuple(model_server_mark(layout.part(part), "") for part in ("modelhost", "modelhost-sandbox"))
    return [each for each in psutil.process_iter() if _environment(each).get(MARK_NAME, "").startswith(marks)]


def end(processes: Iterable[psutil.Process], *, term_s: float = TERM_S) -> list[int]:
    """Ask ``processes`` to end, make those end that do not, and return the pids of all."""
    waiting = list(processes)
    for process in waiting:
        _signal(process.terminate)
    _, stubborn = psutil.wait_procs(waiting, timeout=term_s)
    for process in stubborn:
        _signal(process.kill)
    psutil.wait_procs(stubborn, timeout=KILL_S)
    return [process.pid for process in waiting]


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return


def remove_sockets(layout: Layout) -> None:
    """Remove the sockets of a stack of which nothing runs any more, and the folders that held only them."""
    for part in ("modelhost", "modelhost-sandbox"):
        shutil.rmtree(layout.model_sockets(part), ignore_errors=True)
    for path in layout.sockets.glob("*.sock") if layout.sockets.is_dir() else ():
        path.unlink(missing_ok=True)
    if layout.sockets != layout.run and layout.sockets.is_dir() and not any(layout.sockets.iterdir()):
        layout.sockets.rmdir()
