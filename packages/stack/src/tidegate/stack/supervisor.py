"""supervisord over the parts: its configuration, its start, and the questions that it answers on a unix socket."""

from __future__ import annotations

import http.client
import os
import shlex
import socket
import subprocess
import sys
import xmlrpc.client
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tidegate.core.errors import Unavailable
from tidegate.stack.environment import clean_environment
from tidegate.stack.layout import Layout
from tidegate.stack.program import Program

LOG_BYTES_MAX: Final = 10_000_000
LOG_BACKUPS: Final = 2
# Supervisor waits a second longer before each try: about two minutes in all.
START_TRIES: Final = 15
ANSWER_S: Final = 5.0
START_TIMEOUT_S: Final = 30.0
MARKER: Final = "TIDEGATE_STACK_DIR"
PART_MARKER: Final = "TIDEGATE_STACK_PART"


def script(program: Program) -> str:
    """Return the shell script that becomes ``program``; a script needs no quoting in the supervisor's configuration."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(program.environment.items())]
    return "\n".join(
        [
            "#!/bin/sh",
            f"# How `tidegate up` starts {program.name}. Written anew at each start.",
            f"cd {shlex.quote(str(program.directory))} || exit 1",
            *exports,
            f"export {PART_MARKER}={shlex.quote(program.name)}",
            # Arguments make a command of the part instead (the registry's backup).
            f'exec {shlex.join(program.command)} "$@"',
            "",
        ]
    )


def configuration(programs: Sequence[Program], *, socket_path: Path) -> str:
    """Return supervisord's configuration; its paths are relative to the data directory, where it is started."""
    head = f"""\
[supervisord]
logfile = logs/supervisord.log
logfile_maxbytes = {LOG_BYTES_MAX}
logfile_backups = {LOG_BACKUPS}
pidfile = run/supervisord.pid
childlogdir = logs
umask = 077
identifier = tidegate
{_as_root()}
[unix_http_server]
file = {socket_path}
chmod = 0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
    return head + "".join(_section(program) for program in programs)


def _as_root() -> str:
    # It warns of root unless told that root is meant; whoever runs `tidegate up` is meant.
    return "user = root\n" if os.getuid() == 0 else ""


def _section(program: Program) -> str:
    return f"""
[program:{program.name}]
command = /bin/sh run/{program.name}.sh
autostart = false
autorestart = true
startsecs = 1
startretries = {START_TRIES}
stopwaitsecs = {program.stop_s:.0f}
killasgroup = {str(program.kill_group).lower()}
redirect_stderr = true
stdout_logfile = logs/{program.name}.log
stdout_logfile_maxbytes = {LOG_BYTES_MAX}
stdout_logfile_backups = {LOG_BACKUPS}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessState:
    """What the supervisor knows of a part; ``state`` is its word: RUNNING, STARTING, BACKOFF, STOPPED, FATAL, ..."""

    name: str
    state: str
    pid: int
    started_s: int
    exit_status: int
    problem: str


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(str(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002  (the base class's name)
        return _UnixConnection(self._path)


class Supervisor:
    """The supervisor of one stack."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def start(self, programs: Sequence[Program]) -> None:
        """Write the configuration and start supervisord; no part runs yet.

        Raises:
            Unavailable: It does not start.

        """
        layout = self._layout
        for program in programs:
            self.write_script(program.name, script(program))
        layout.supervisor_configuration.write_text(configuration(programs, socket_path=layout.supervisor_socket))
        # It makes itself a daemon: this process never becomes the parent of the parts.
        outcome = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "--configuration", "run/supervisord.conf"],
            cwd=layout.root,
            env=clean_environment({MARKER: str(layout.root)}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        if outcome.returncode != 0 or not self.is_alive():
            raise Unavailable(
                f"the supervisor does not start (exit code {outcome.returncode}): {outcome.stderr.strip()[-1000:]}",
                code="SUPERVISOR_NOT_STARTED",
                hint=f"see {layout.logs / 'supervisord.log'}",
            )

    def write_script(self, name: str, text: str) -> None:
        """Have the next start of a part run ``text``; a start at this moment runs the old one or the new one whole."""
        target = self._layout.run / f"{name}.sh"
        partial = target.with_name(target.name + ".partial")
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        partial.write_text(text)
        partial.rename(target)

    def read_configuration(self, text: str) -> frozenset[str]:
        """Have a running supervisor know the configuration ``text``; return the parts whose section is another one.

        No part is touched: see :meth:`take_section_anew`.

        Raises:
            Unavailable: It does not answer, or can't read it.

        """
        self._layout.supervisor_configuration.write_text(text)
        try:
            ((_added, changed, _removed),) = self._call("reloadConfig")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise Unavailable(
                f"the supervisor can't take a new configuration: {error}", code="SUPERVISOR_UNAVAILABLE"
            ) from error
        return frozenset(str(name) for name in changed)

    def take_section_anew(self, name: str) -> None:
        """Have the supervisor take a stopped part's new section."""
        self._quietly("removeProcessGroup", name)
        self._quietly("addProcessGroup", name)

    def is_alive(self) -> bool:
        """Return whether it answers."""
        try:
            return bool(self._call("getState")["statename"])
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False

    def pid(self) -> int:
        """Return its process id."""
        return int(self._call("getPID"))

    def states(self) -> dict[str, ProcessState]:
        """Return the state of each part, by name.

        Raises:
            Unavailable: The supervisor does not answer.

        """
        try:
            answer = self._call("getAllProcessInfo")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise Unavailable(f"the supervisor does not answer: {error}", code="SUPERVISOR_UNAVAILABLE") from error
        return {
            each["name"]: ProcessState(
                name=each["name"],
                state=each["statename"],
                pid=each["pid"],
                started_s=each["start"],
                exit_status=each["exitstatus"],
                problem=each["spawnerr"],
            )
            for each in answer
        }

    def start_part(self, name: str) -> None:
        """Have a part run; nothing happens if it does. Returns at once."""
        self._quietly("startProcess", name, False)

    def stop_part(self, name: str) -> None:
        """Have a part stop; nothing happens if it does not run. Returns at once."""
        self._quietly("stopProcess", name, False)

    def shutdown(self) -> None:
        """Have it stop all parts and end; returns at once."""
        self._quietly("shutdown")

    def _quietly(self, method: str, *args: Any) -> None:
        """Call ``method``; what is already so is no fault (the caller waits for the state that it wants)."""
        try:
            self._call(method, *args)
        except xmlrpc.client.Fault:
            return
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise Unavailable(f"the supervisor does not answer: {error}", code="SUPERVISOR_UNAVAILABLE") from error

    def _call(self, method: str, *args: Any) -> Any:
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=_UnixTransport(self._layout.supervisor_socket))
        with proxy:
            return getattr(proxy.supervisor, method)(*args)
