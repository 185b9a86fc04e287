"""The guide does what it says: its blocks are run one after the other, as a reader would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "first-rollout.md"

pytestmark = pytest.mark.timeout(400)


def blocks() -> list[str]:
    return re.findall(r"^```bash run\n(.*?)^```$", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_guide_is_true(world, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("the guide calls curl, which is not installed")
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("TIDEGATE_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TIDEGATE_STACK": str(world.folder / "stack"),
        "TIDEGATE_GATEWAY_URL": world.gateway_url,
    }
    script = "set -euo pipefail\n" + "\n".join(blocks())
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(blocks()) == 5
    assert "ModelRegistered 1.0.0" in done.stdout
    assert "x-tidegate-version: 1.0.0" in done.stdout
    assert '"outputs"' in done.stdout
    why = done.stdout[done.stdout.index("x-tidegate-version") :]
    assert "1.0.0" in why
    assert "blessed" in why
