"""The environment that parts start with: what any program needs, and none of the caller's secrets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

PASSED_ON: Final = (
    "HOME",
    "LANG",
    "LC_ALL",
    "PATH",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_RUNTIME_DIR",
)


def clean_environment(
    extra: Mapping[str, str] | None = None, *, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the variables named in PASSED_ON of ``base`` (default: this process's), and ``extra``."""
    source = os.environ if base is None else base
    return {name: source[name] for name in PASSED_ON if name in source} | dict(extra or {})
