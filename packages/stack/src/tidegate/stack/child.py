"""A program as a child of this process: for tests and tools that need one part and not the stack."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tidegate.core.errors import Unavailable
from tidegate.stack.environment import clean_environment
from tidegate.stack.program import Program

POLL_S: Final = 0.05
LOG_TAIL_LINES: Final = 20
_PR_SET_PDEATHSIG: Final = 1


def log_tail(path: Path, line_count: int = LOG_TAIL_LINES) -> str:
    """Return the last lines of the log at ``path``; empty if there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 64 * 1024))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-line_count:])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A running program; it dies with this process, whatever happens to this process."""

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(  # noqa: S603  (our own command)
                program.command,
                cwd=program.directory,
                env=clean_environment(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  (nothing else survives a killed test runner)
            )

    def wait_until(self, is_ready: Callable[[], bool], *, deadline_s: float | None = None) -> None:
        """Return when ``is_ready`` says so.

        Raises:
            Unavailable: The process ended, or the deadline (default: the program's) passed; with the log's tail.

        """
        deadline = time.monotonic() + (deadline_s or self.program.start_s)
        while not is_ready():
            code = self.process.poll()
            if code is not None or time.monotonic() > deadline:
                what = "did not become ready in time" if code is None else f"ended with exit code {code}"
                raise Unavailable(
                    f"{self.program.name} {what}; the end of {self.log}:\n{log_tail(self.log)}", code="PART_NOT_READY"
                )
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Ask it to end, and make it end."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(self.program.stop_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it, and all that it started, as a crash would."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(program: Program, *, log: Path, is_ready: Callable[[], bool]) -> Iterator[Child]:
    """Run ``program`` for the length of a ``with`` block; ready at its start, gone at its end."""
    child = Child(program, log)
    try:
        child.wait_until(is_ready)
        yield child
    finally:
        child.stop()
