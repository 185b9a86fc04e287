"""A full disk is no fault of the message at hand, nor of the program: work waits until there is room."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tidegate.core.errors import Unavailable

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def full_disk_is_unavailable() -> Iterator[None]:
    """Raise Unavailable (code DISK_FULL) in place of the system's error when there is no room left."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" at {error.filename}" if error.filename else ""
        raise Unavailable(
            f"there is no room on the disk{where}: {error.strerror}", code="DISK_FULL", hint="make room; work goes on"
        ) from error
