"""The page for producers without a library of ours does what it says: its program is run as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from registrations import onnx_bytes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "producers.md"
PROGRAM_S = 180

pytestmark = pytest.mark.timeout(400)


def program() -> str:
    (found,) = re.findall(r"^```python run\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    return str(found)


def run(world, folder: Path, content: bytes, model: str) -> subprocess.CompletedProcess[str]:
    script, file = folder / "publish.py", folder / "model.onnx"
    script.write_text(program())
    file.write_bytes(content)
    offered = json.loads((world.folder / "stack" / "stack.json").read_text())["env"]
    environment = {**os.environ, **offered, "TIDEGATE_KAFKA_TOPIC_PREFIX": "tidegate"}
    return subprocess.run(
        [sys.executable, str(script), str(file), model],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PROGRAM_S,
        check=False,
    )


def test_a_program_of_others_publishes_and_hears_its_answer(world, tmp_path):
    done = run(world, tmp_path, onnx_bytes("foreign"), "foreign")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("ModelRegistered")
    assert 'owner: "team-a"' in done.stdout
    refused = run(world, tmp_path, b"no model", "foreign")
    assert refused.returncode == 0, refused.stdout + refused.stderr
    assert refused.stdout.startswith("RegistrationRejected")
    assert "FORMAT_UNKNOWN" in refused.stdout
