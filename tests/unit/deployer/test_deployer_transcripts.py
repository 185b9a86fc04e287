"""Stories of rollouts: what happens above the line, what the core says below.

Read them; TIDEGATE_REWRITE=1 writes the part below the line anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TRANSCRIPTS = Path(__file__).parent / "transcripts"
RULE = "----\n"


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path, script):
    story, _, expected = path.read_text().partition(RULE)
    lines = [line for line in story.splitlines() if line and not line.startswith("#")]
    told = "".join(f"{line}\n" for command in lines for line in script.told(command))
    if os.environ.get("TIDEGATE_REWRITE"):
        path.write_text(f"{story}{RULE}{told}")
        expected = told
    assert told == expected


def test_there_are_transcripts():
    assert len(list(TRANSCRIPTS.glob("*.txt"))) >= 10
