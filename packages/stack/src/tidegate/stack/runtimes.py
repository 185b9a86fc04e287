"""The environments of model servers: each runtime has its own lock file, and its own ``.venv`` made by uv."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tidegate.core.errors import FailedPrecondition, Unavailable
from tidegate.stack.layout import repository_root

SYNC_TIMEOUT_S: Final = 1800


def ensure_runtimes(folder: Path, *, announce: Callable[[str], None] = lambda _: None) -> None:
    """See that each runtime in ``folder`` that is a project with a lock file has an environment that matches it.

    Raises:
        FailedPrecondition: uv is missing.
        Unavailable: uv could not make one (code RUNTIME_SETUP_FAILED).

    """
    for project in sorted(folder.glob("*/pyproject.toml")):
        if project.with_name("uv.lock").exists():
            _ensure(project.parent, announce)


def _ensure(runtime: Path, announce: Callable[[str], None]) -> None:
    stamp = runtime / ".venv" / ".synced"
    lock = runtime / "uv.lock"
    # The same stamp as the Makefile's: newer than what the environment was made from.
    if stamp.exists() and stamp.stat().st_mtime >= max(
        lock.stat().st_mtime, (runtime / "pyproject.toml").stat().st_mtime
    ):
        return
    announce(f"making the environment of runtime {runtime.name} (downloads its packages on the first run)")
    # Model servers may not write where they run from: without bytecode each start would compile all that it imports.
    options = ("--frozen", "--compile-bytecode", "--python", sys.executable)
    outcome = subprocess.run(  # noqa: S603  (our own command)
        [str(find_uv()), "sync", *options, "--project", str(runtime)],
        env={name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        | {"UV_PROJECT_ENVIRONMENT": ".venv"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SYNC_TIMEOUT_S,
        check=False,
    )
    if outcome.returncode != 0:
        tail = "\n".join(outcome.stdout.strip().splitlines()[-15:])
        raise Unavailable(
            f"the environment of runtime {runtime.name} can't be made (uv ended with {outcome.returncode}):\n{tail}",
            code="RUNTIME_SETUP_FAILED",
            hint="see that this machine reaches the package index, and that the disk has room",
        )
    stamp.touch()


def find_uv() -> Path:
    """Return the checkout's own uv, else the one on the PATH.

    Raises:
        FailedPrecondition: There is none.

    """
    own = repository_root() / ".tools" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise FailedPrecondition("uv is not installed", code="UV_MISSING", hint="run `make setup`, or `pip install uv`")
    return Path(found)
