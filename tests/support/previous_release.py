"""The previous release, from the history of this repository: its sources and an environment of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tidegate.stack.runtimes import find_uv

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "TIDEGATE_UPGRADE_FROM"
NOTED = ROOT / "deploy" / "previous-release"
SETUP_S = 1800


@dataclass(frozen=True)
class Checkout:
    """A release in a folder of its own."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / ".venv" / "bin"

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that its commands run with: none of the caller's settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "VIRTUAL_ENV"))}
        return kept | {"PATH": f"{self.bin}:{find_uv().parent}:{os.environ['PATH']}", "UV_PYTHON_DOWNLOADS": "never"}

    def run(self, *words: str | Path, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Run a command of this release."""
        return subprocess.run(
            [str(word) for word in words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def name_of_previous() -> str:
    """Return what names the previous release: the variable, else the newest tag before HEAD, else the noted commit."""
    if named := os.environ.get(VARIABLE):
        return named
    if (tag := git("describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^")).returncode == 0:
        return tag.stdout.decode().strip()
    return NOTED.read_text().split()[1]


def is_in_history(name: str) -> bool:
    """Say whether this clone has the release's commit."""
    return git("cat-file", "-e", f"{name}^{{commit}}").returncode == 0


def check_out(name: str, folder: Path) -> Checkout:
    """Unpack the release into ``folder`` and make its environment, as its own set-up does."""
    archive = git("archive", "--format=tar", name)
    assert archive.returncode == 0, archive.stderr
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(folder, filter="data")
    checkout = Checkout(folder)
    for project in (folder, folder / "runtimes" / "kserve-onnx"):
        done = subprocess.run(
            [find_uv(), "sync", "--frozen", "--no-dev", "--python", sys.executable, "--project", project],
            env=checkout.environment | {"UV_PROJECT_ENVIRONMENT": ".venv"},
            capture_output=True,
            text=True,
            timeout=SETUP_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (project / ".venv" / ".synced").touch()
    return checkout


def git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=False)
