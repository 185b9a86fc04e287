"""Tools that the benchmarks need and that are no Python packages."""

from __future__ import annotations

import shutil


class ToolMissing(RuntimeError):  # noqa: N818  (named for what it is)
    """A program is not installed; the message says which and how to get it."""


def need(program: str, *, package: str) -> str:
    """Return the path of ``program``.

    Raises:
        ToolMissing: It is not installed.

    """
    found = shutil.which(program)
    if found is None:
        raise ToolMissing(f"{program} is not installed; hint: apt-get install {package}")
    return found
