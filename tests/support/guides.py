"""The programs that stand in the guides, taken out and run as a reader would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM_S = 180


def programs(page: str, kind: str) -> list[str]:
    """Return the blocks of a guide that begin with ```` ```KIND ````, such as ``bash run``, in order."""
    text = (ROOT / "docs" / "guides" / page).read_text()
    found = re.findall(rf"^```{re.escape(kind)}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no block {kind!r}"
    return [str(block) for block in found]


def offered(stack: Path) -> dict[str, str]:
    """Return what a stack tells its users in ``stack.json``, beside this process's own environment."""
    told: dict[str, str] = json.loads((stack / "stack.json").read_text())["env"]
    own = {name: text for name, text in os.environ.items() if not name.startswith("TIDEGATE_")}
    return {**own, **told, "TIDEGATE_KAFKA_TOPIC_PREFIX": "tidegate"}


def run(
    command: Sequence[str | Path], *, folder: Path, env: Mapping[str, str], timeout_s: float = PROGRAM_S
) -> subprocess.CompletedProcess[str]:
    """Run a program of a guide in ``folder`` to its end."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def run_python(
    program: str, *arguments: str, folder: Path, env: Mapping[str, str], python: Path | str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run a Python program of a guide."""
    script = folder / "program.py"
    script.write_text(program)
    return run([python, script, *arguments], folder=folder, env=env)


def run_bash(program: str, *, folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run commands of a guide; the first that fails ends them."""
    return run(["bash", "-euo", "pipefail", "-c", program], folder=folder, env=env)
