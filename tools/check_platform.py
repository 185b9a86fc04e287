"""Say in one sentence, before anything is installed, why this machine is not supported (standard library only)."""

import platform
import sys

PYTHON_OLDEST = (3, 11)
PYTHON_BEYOND = (3, 14)


def main() -> int:
    """Return 0 on a supported machine, else print why not and return 1."""
    faults = []
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        faults.append(f"this is {sys.platform} on {platform.machine()}, expected Linux on x86_64")
    if not PYTHON_OLDEST <= sys.version_info[:2] < PYTHON_BEYOND:
        faults.append(f"Python is {platform.python_version()}, expected 3.11, 3.12 or 3.13")
    if sys.platform == "linux" and platform.libc_ver()[0] != "glibc":
        faults.append(
            f"the C library is {platform.libc_ver()[0] or 'unknown'}, expected glibc (the wheels are manylinux)"
        )
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if faults:
        print(
            "hint: use docker-compose.yml elsewhere, or set PYTHON=python3.12 for another interpreter", file=sys.stderr
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
