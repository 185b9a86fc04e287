"""Installs the echo server as a serving runtime beside the shipped one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final

import yaml

from bench import echo_server
from tidegate.stack.layout import RUNTIMES_VARIABLE, runtimes_dir

RUNTIME: Final = "bench-echo"
FAILING: Final = "failing"


def install(folder: Path) -> dict[str, str]:
    """Make ``folder`` a folder of runtimes; return the variables by which a stack serves with the echo server."""
    shipped = runtimes_dir()
    directory = folder / RUNTIME
    directory.mkdir(parents=True)
    for described in shipped.glob("*/runtime.yaml"):
        (folder / described.parent.name).symlink_to(described.parent)
    shutil.copy(echo_server.__file__, directory / "server.py")
    (directory / "lock").write_text("standard library\n")
    runtime = {
        "name": RUNTIME,
        "formats": ["onnx"],
        "protocol": "v2-rest",
        "readiness_path": "/v2/health/ready",
        "python": sys.executable,
        "lock": "lock",
        "command": [
            "{python}", "-I", "{runtime_dir}/server.py",
            "--version", "{version}", "--listen", "{listen}", "--failing", "{runtime_dir}/" + FAILING,
        ],
    }  # fmt: skip
    (directory / "runtime.yaml").write_text(yaml.safe_dump(runtime))
    return {RUNTIMES_VARIABLE: str(folder), "TIDEGATE_DEPLOYER_RUNTIME": RUNTIME}


def let_fail(folder: Path, versions: Collection[str]) -> None:
    """Have the servers of ``versions`` answer 500 from now on, and those of all others answer."""
    path = folder / RUNTIME / FAILING
    partial = path.with_suffix(".partial")
    partial.write_text(" ".join(versions))
    partial.rename(path)
