"""Command lines that hold a model server: limits everywhere, and bubblewrap where it works.

``bubblewrap`` means: no network, own processes only, a read-only root with nothing in it but the system's programs and
libraries, the runtime and the model; a small /tmp, one writable folder for the socket, an environment without secrets,
no further user namespaces.
``limits`` means: bounded address space, open files and file size, no core files, low priority, a clean environment.
RLIMIT_NPROC is not set: it has no effect on root of the host; the container's pids limit holds there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

PROBE_TIMEOUT_S: Final = 10.0
UNPRIVILEGED_ID: Final = "65534"
FILE_BYTES_MAX: Final = 64 << 20
_SYSTEM_PATHS: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_LOADER_PATHS: Final = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime")
_LIMIT: Final = 'ulimit -c 0 && ulimit -n "$1" && ulimit -v "$2" && ulimit -f "$3" && priority="$4" && shift 4 && '
# bubblewrap ends with its parent, so the parent must outlive the model host: the shell stays.
_EXEC: Final = 'exec nice -n "$priority" "$@"'
_STAY: Final = 'nice -n "$priority" "$@"; exit $?'


class Level(StrEnum):
    """Isolation of a model server; the later is the stronger."""

    LIMITS = "limits"
    BUBBLEWRAP = "bubblewrap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one model server may use."""

    memory_mib: int
    open_files: int
    nice: int


def limited(command: Sequence[str], *, limits: Limits, level: Level) -> list[str]:
    """Return ``command`` behind a shell that sets the limits first (POSIX: KiB for -v, 512-byte blocks for -f)."""
    script = _LIMIT + (_STAY if level is Level.BUBBLEWRAP else _EXEC)
    values = (limits.open_files, limits.memory_mib * 1024, FILE_BYTES_MAX // 512, limits.nice)
    return ["/bin/sh", "-c", script, "model-server", *(str(value) for value in values), *command]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bubblewrap:
    """A bubblewrap that works here."""

    program: str
    can_disable_userns: bool

    def wrap(
        self,
        command: Sequence[str],
        *,
        readable: Sequence[tuple[str, str]],
        writable: str,
        environment: Mapping[str, str],
        temporary_bytes: int,
    ) -> list[str]:
        """Return ``command`` inside the sandbox; ``readable`` are pairs of a source and its place inside."""
        line = [self.program, *self._namespaces(), *system_mounts(temporary_bytes=temporary_bytes)]
        for source, place in readable:
            line += ["--ro-bind", source, place]
        line += ["--bind", writable, writable, "--remount-ro", "/", "--clearenv"]
        for name, value in environment.items():
            line += ["--setenv", name, value]
        return [*line, "--chdir", "/tmp", "--", *command]  # noqa: S108  (the sandbox's own)

    def _namespaces(self) -> list[str]:
        line = ["--unshare-all", "--unshare-user", "--uid", UNPRIVILEGED_ID, "--gid", UNPRIVILEGED_ID]
        line += ["--hostname", "sandbox", "--new-session", "--die-with-parent", "--cap-drop", "ALL"]
        return [*line, "--disable-userns"] if self.can_disable_userns else line


def system_mounts(*, temporary_bytes: int) -> list[str]:
    """Return the arguments for the system's read-only part, /proc, /dev and a bounded /tmp."""
    line = ["--ro-bind", "/usr", "/usr"]
    for path in _SYSTEM_PATHS:
        if os.path.islink(path):  # noqa: PTH114
            line += ["--symlink", os.readlink(path), path]  # noqa: PTH115
        elif os.path.isdir(path):  # noqa: PTH112
            line += ["--ro-bind", path, path]
    for path in _LOADER_PATHS:
        line += ["--ro-bind-try", path, path]
    return [*line, "--proc", "/proc", "--dev", "/dev", "--size", str(temporary_bytes), "--tmpfs", "/tmp"]  # noqa: S108


def interpreter_mounts(python: Path) -> list[tuple[str, str]]:
    """Return the mounts that ``python`` needs: the prefix of every link on the way to the real interpreter.

    A virtual environment's interpreter is a link into its base installation, which may itself lie behind a link.
    """
    mounts: dict[str, str] = {}
    hop = python.absolute()
    for _ in range(8):
        prefix = hop.parent.parent
        if not prefix.is_relative_to("/usr") and len(prefix.parts) > 1:
            mounts[str(prefix)] = str(prefix.resolve())
        if not hop.is_symlink():
            break
        hop = Path(os.path.normpath(hop.parent / hop.readlink()))
    real = hop.resolve().parent.parent
    if not real.is_relative_to("/usr") and len(real.parts) > 1:
        mounts[str(real)] = str(real)
    return [(source, place) for place, source in mounts.items()]


def find_bubblewrap() -> Bubblewrap | None:
    """Return a bubblewrap that works here, found out by starting ``true`` in it; None if there is none."""
    program = shutil.which("bwrap")
    if program is None:
        return None
    for can_disable_userns in (True, False):
        bubblewrap = Bubblewrap(program=program, can_disable_userns=can_disable_userns)
        line = bubblewrap.wrap(
            ["true"], readable=(), writable="/dev/null", environment={"PATH": "/usr/bin:/bin"}, temporary_bytes=1 << 20
        )
        try:
            finished = subprocess.run(  # noqa: S603
                line, check=False, capture_output=True, timeout=PROBE_TIMEOUT_S, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if finished.returncode == 0:
            return bubblewrap
    return None
