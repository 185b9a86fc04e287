"""Generate the Python code of proto/ into packages/contracts (committed; `make check-generated` holds it current)."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "packages/contracts/src"


def main() -> int:
    """Run protoc with the pinned plugins; the exit code is protoc's."""
    files = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    return int(
        protoc.main(
            [
                "protoc",
                f"-I{ROOT / 'proto'}",
                f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
                f"--python_out={OUT}",
                f"--mypy_out={OUT}",
                f"--grpc_python_out={OUT}",
                f"--mypy_grpc_out={OUT}",
                *files,
            ]
        )
    )


if __name__ == "__main__":
    sys.exit(main())
