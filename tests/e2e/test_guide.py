"""The guides do what they say: their blocks are run one after the other, as a reader would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"

pytestmark = pytest.mark.timeout(700)


def blocks(guide: str) -> list[str]:
    text = (GUIDES / guide).read_text()
    return re.findall(r"^```bash run\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def follow(world, tmp_path_factory):
    """Return a function that runs a guide's blocks, all in one folder."""
    if shutil.which("curl") is None:
        pytest.skip("the guides call curl, which is not installed")
    folder = tmp_path_factory.mktemp("reader")
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("TIDEGATE_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TIDEGATE_STACK": str(world.folder / "stack"),
        "TIDEGATE_GATEWAY_URL": world.gateway_url,
    }

    def run(guide: str) -> str:
        script = "set -euo pipefail\n" + "\n".join(blocks(guide))
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_guide_is_true(follow):
    told = follow("first-rollout.md")
    assert len(blocks("first-rollout.md")) == 5
    assert "ModelRegistered 1.0.0" in told
    assert "x-tidegate-version: 1.0.0" in told
    assert '"outputs"' in told
    why = told[told.index("x-tidegate-version") :]
    assert "1.0.0" in why
    assert "blessed" in why


def test_the_guide_that_goes_on_from_there_is_true(follow):
    told = follow("steering.md")
    assert "decided: start tumour-1.0.1-" in told
    assert "no model is served at this path" in told
    why = told[told.rindex("no model is served") :]
    for story in (
        "not on a Friday",
        "it is Monday",
        "1.0.1 was retired",
        "1.0.1 was brought back",
        "the model tumour was retired",
    ):
        assert story in why
