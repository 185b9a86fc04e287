"""Processes of a stack that outlived their supervisor: found by a mark in their environment, not by their names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import psutil

from tidegate.stack.layout import Layout
from tidegate.stack.supervisor import MARKER, PART_MARKER

TERM_S: Final = 20.0
KILL_S: Final = 10.0


def marked(layout: Layout, *, parts: Callable[[str], bool] = lambda _: True) -> list[psutil.Process]:
    """Return the processes that this stack started; ``parts`` says of which part (the supervisor's name is empty)."""
    mark = str(layout.root)
    found = []
    for process in psutil.process_iter():
        environment = _environment(process)
        if environment.get(MARKER) == mark and parts(environment.get(PART_MARKER, "")):
            found.append(process)
    return found


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
    """Return model servers, which carry no mark: they are told a socket in one of this stack's socket folders."""
    folders = [str(layout.model_sockets(part)) + os.sep for part in ("modelhost", "modelhost-sandbox")]
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.uids().real != os.getuid():
                continue
            listens = any(_names_socket(word, folders) for word in process.cmdline())
        except (psutil.Error, OSError):
            continue
        if listens:
            found.append(process)
    return found


def _names_socket(word: str, folders: Sequence[str]) -> bool:
    return any(word.startswith((folder, f"unix:{folder}")) or f"=unix:{folder}" in word for folder in folders)


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
