"""A Docker engine: the one that runs here, else one started for this test and stopped after it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PACKAGES: Final = ("docker.io", "debootstrap")
START_S: Final = 90.0
STOP_S: Final = 60.0
ASK_S: Final = 20.0
# A network of its own for the engine that we start: the usual one may be taken.
BRIDGE: Final = "172.29.0.1/24"


class NoEngineError(Exception):
    """No Docker engine runs here, and none can be started; the text says why."""


class CommandError(Exception):
    """A command failed; the text has its end."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How to talk to the engine; ``environment`` is what its clients need."""

    environment: Mapping[str, str] = field(default_factory=dict)

    def docker(self, *arguments: str, timeout_s: float = 600.0, stdin: int | None = subprocess.DEVNULL) -> str:
        """Run ``docker`` and return what it prints.

        Raises:
            CommandError: It failed, or took too long.

        """
        return run("docker", *arguments, environment=self.environment, timeout_s=timeout_s, stdin=stdin)


def run(
    *command: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 600.0,
    stdin: int | None = subprocess.DEVNULL,
    directory: Path | None = None,
) -> str:
    """Run a command to its end and return what it prints to standard output.

    Raises:
        CommandError: It failed, took too long, or does not exist.

    """
    try:
        outcome = subprocess.run(  # noqa: S603  (our own commands)
            command,
            env=os.environ | dict(environment or {}),
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=directory,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"{command[0]}: {error}") from error
    if outcome.returncode != 0:
        said = (outcome.stderr or outcome.stdout).strip()[-3000:]
        raise CommandError(f"`{' '.join(command[:6])}` ended with {outcome.returncode}:\n{said}")
    return outcome.stdout


@contextmanager
def engine(folder: Path, *, install: bool) -> Iterator[Engine]:
    """Yield the engine that runs, else start one whose data lie in ``folder``; ``install`` may add Debian's packages.

    Raises:
        NoEngineError: None runs, and none can be started.

    """
    found = Engine()
    if _answers(found):
        yield found
        return
    if os.geteuid() != 0:
        raise NoEngineError("no Docker engine answers, and only root can start one")
    if shutil.which("dockerd") is None:
        if not (install and shutil.which("apt-get")):
            raise NoEngineError("no Docker engine answers, and dockerd is not installed (--install adds Debian's)")
        add_packages(PACKAGES)
    with _started(folder) as started:
        yield started


def add_packages(names: tuple[str, ...]) -> None:
    """Install packages of Debian; as root."""
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", "-qq", environment=quiet)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *names, environment=quiet)


@contextmanager
def _started(folder: Path) -> Iterator[Engine]:
    folder.mkdir(parents=True, exist_ok=True)
    socket = folder / "docker.sock"
    command = (
        "dockerd", "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--host", f"unix://{socket}",
        "--pidfile", str(folder / "pid"), "--bip", BRIDGE,
    )  # fmt: skip
    log = folder / "dockerd.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL)  # noqa: S603
    try:
        own = Engine(environment={"DOCKER_HOST": f"unix://{socket}"})
        deadline = time.monotonic() + START_S
        while not _answers(own):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NoEngineError(f"dockerd does not start here:\n{log.read_text()[-1500:]}")
            time.sleep(0.2)
        yield own
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(candidate: Engine) -> bool:
    try:
        candidate.docker("version", "--format", "{{.Server.Version}}", timeout_s=ASK_S)
    except CommandError:
        return False
    return True
