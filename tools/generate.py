"""Generate the Python code of proto/ into packages/contracts (committed; `make check-generated` holds it current)."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "packages/contracts/src"


def run_protoc(files: list[str], *outputs: str) -> int:
    """Run protoc with the pinned plugins of this environment; return its exit code."""
    scripts = Path(sysconfig.get_path("scripts"))
    return int(
        protoc.main(
            [
                "protoc",
                f"-I{ROOT / 'proto'}",
                f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
                f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
                f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
                *(f"--{output}_out={OUT}" for output in outputs),
                *files,
            ]
        )
    )


def main() -> int:
    """Generate messages for every file, and stubs for the files that hold services."""
    files = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    services = [file for file in files if file.endswith("_service.proto")]
    return run_protoc(files, "python", "mypy") or run_protoc(services, "grpc_python", "mypy_grpc")


if __name__ == "__main__":
    sys.exit(main())
