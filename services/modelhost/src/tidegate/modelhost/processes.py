"""Processes of model servers: known by pid, time of creation and a mark in their environment; ended as whole trees."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from tidegate.core.errors import Unavailable
from tidegate.modelhost.lifecycle import Process

# Every process of a server inherits it, also one that left its session: ``<data dir>|<server id>``.
MARK_NAME: Final = "TIDEGATE_MODEL_SERVER"
# The creation time is derived from the boot time, which moves when the clock is set.
CREATE_TIME_TOLERANCE_S: Final = 2.0
KILL_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.02
_HIGH_WATER = re.compile(rb"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_RESIDENT = re.compile(rb"^VmRSS:\s+(\d+) kB", re.MULTILINE)


def mark(data_dir: Path, server_id: str) -> str:
    """Return the mark of a server of the host with ``data_dir``."""
    return f"{data_dir.absolute()}|{server_id}"


def is_alive(process: Process | None, own_mark: str) -> bool:
    """Say whether ``process`` still runs: the same pid, created at the same time, with our mark."""
    return process is not None and _resolve(process, own_mark) is not None


def tree(process: Process, own_mark: str) -> tuple[int, ...]:
    """Return the pids of ``process`` and of all that it started; none if it is gone."""
    root = _resolve(process, own_mark)
    return () if root is None else (root.pid, *(child.pid for child in _children(root)))


def peak_memory_bytes(pids: Sequence[int]) -> int:
    """Return the largest resident memory of the processes that live now, in bytes.

    The kernel's own high-water marks are summed: they miss no short peak, and shared pages count once a process.
    """
    return sum(_status_bytes(pid, _HIGH_WATER) for pid in pids)


def resident_bytes(pids: Sequence[int]) -> int:
    """Return the resident memory of the processes that live now, in bytes; shared pages count once a process."""
    return sum(_status_bytes(pid, _RESIDENT) for pid in pids)


def marks_alive(data_dir: Path) -> set[str]:
    """Return the ids of servers of the host with ``data_dir`` that have a process."""
    prefix = mark(data_dir, "")
    found = (_mark_of(process) for process in psutil.process_iter())
    return {text.removeprefix(prefix) for text in found if text.startswith(prefix)}


async def end(process: Process | None, own_mark: str, *, grace_s: float) -> None:
    """End every process of the server: SIGTERM, and SIGKILL after ``grace_s`` seconds.

    Raises:
        Unavailable: Some process outlives SIGKILL for seconds (code PROCESS_UNKILLABLE).

    """
    loop = asyncio.get_running_loop()
    members = await asyncio.to_thread(_members, process, own_mark)
    parents = {_parent_pid(member) for member in members}
    for member in members:
        # A shell or bubblewrap would end at once and take the server with it; it ends when the server has.
        if member.pid not in parents:
            _signal(member, kill=False)
    deadline = loop.time() + grace_s
    while loop.time() < deadline and any(_runs(member) for member in members):  # noqa: ASYNC110  (no event tells)
        await asyncio.sleep(POLL_S)
    deadline = loop.time() + KILL_TIMEOUT_S
    while True:
        # One that is just ending shows no environment any more, so those known before are looked at again.
        fresh = await asyncio.to_thread(_members, process, own_mark)
        members = [member for member in {*members, *fresh} if _runs(member)]
        if not members:
            return
        if loop.time() > deadline:
            pids = [member.pid for member in members]
            raise Unavailable(f"processes {pids} do not end by SIGKILL", code="PROCESS_UNKILLABLE")
        for member in members:
            _signal(member, kill=True)
        await asyncio.sleep(POLL_S)


def _resolve(process: Process, own_mark: str) -> psutil.Process | None:
    try:
        found = psutil.Process(process.pid)
        is_same = abs(found.create_time() - process.create_time_s) < CREATE_TIME_TOLERANCE_S
    except psutil.Error:
        return None
    return found if is_same and _runs(found) and _mark_of(found) == own_mark else None


def _members(process: Process | None, own_mark: str) -> list[psutil.Process]:
    found = {member.pid: member for member in psutil.process_iter() if _mark_of(member) == own_mark}
    root = _resolve(process, own_mark) if process is not None else None
    for member in [*found.values(), *([root] if root is not None else [])]:
        found.update({child.pid: child for child in _children(member)})
    return [member for member in found.values() if _runs(member)]


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _parent_pid(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.Error:
        return 0


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _mark_of(process: psutil.Process) -> str:
    try:
        return str(process.environ().get(MARK_NAME, ""))
    except (psutil.Error, OSError):
        return ""


def _signal(process: psutil.Process, *, kill: bool) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile: what we wanted
        process.kill() if kill else process.terminate()


def _status_bytes(pid: int, line: re.Pattern[bytes]) -> int:
    try:
        found = line.search(Path(f"/proc/{pid}/status").read_bytes())
    except OSError:
        return 0
    return int(found.group(1)) * 1024 if found else 0
