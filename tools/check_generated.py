"""Generate the contract's code into a scratch folder and compare it with what is committed."""

from __future__ import annotations

import filecmp
import sys
import tempfile
from pathlib import Path

import generate


def differences(fresh: Path, committed: Path) -> list[str]:
    """Return the names of generated files that differ, are missing, or are left over."""
    fresh_names = {path.name for path in fresh.glob("*_pb2*")}
    committed_names = {path.name for path in committed.glob("*_pb2*")}
    changed = {
        name for name in fresh_names & committed_names if not filecmp.cmp(fresh / name, committed / name, shallow=False)
    }
    return sorted(changed | (fresh_names ^ committed_names))


def main() -> int:
    """Return 0 if the committed code is current, else name the files and return 1."""
    committed = generate.OUT / "tidegate" / "v1"
    with tempfile.TemporaryDirectory() as scratch:
        generate.OUT = Path(scratch)
        if generate.main() != 0:
            return 1
        stale = differences(Path(scratch) / "tidegate" / "v1", committed)
    for name in stale:
        print(f"error: {committed / name} is not what proto/ generates", file=sys.stderr)
    if stale:
        print("hint: run `make generate` and commit the result", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
