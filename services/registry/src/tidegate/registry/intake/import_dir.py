"""Files below the import folder, opened without ever following a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from tidegate.registry.intake.rejection import Rejected, rejected


def open_import(uri: str, import_dir: Path | None, field: str) -> int:
    """Return a descriptor of the regular file that ``uri`` names; the caller closes it.

    Every step is opened relative to the one before and refuses links, so that nothing can be swapped in between.

    Raises:
        Rejected: It lies elsewhere (SOURCE_NOT_ALLOWED), goes through a link (LINK_REFUSED), is no regular file
            (NOT_A_FILE), or does not exist (ARTIFACT_MISSING).

    """
    steps = _steps_below(uri, import_dir, field)
    if import_dir is None:
        raise _not_allowed(uri, import_dir, field)
    folder = os.open(import_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for step in steps[:-1]:
            deeper = _open_step(uri, step, folder, os.O_DIRECTORY, field)
            os.close(folder)
            folder = deeper
        # Opening a named pipe would wait for a writer without O_NONBLOCK.
        descriptor = _open_step(uri, steps[-1], folder, os.O_NONBLOCK, field)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise rejected("NOT_A_FILE", f"{uri} is not a regular file", field)
    return descriptor


def _steps_below(uri: str, import_dir: Path | None, field: str) -> tuple[str, ...]:
    parts = urlsplit(uri)
    path = PurePosixPath(unquote(parts.path))
    if import_dir is None or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise _not_allowed(uri, import_dir, field)
    if (
        ".." in path.parts
        or "\0" in str(path)
        or not path.is_relative_to(import_dir)
        or path == PurePosixPath(import_dir)
    ):
        raise _not_allowed(uri, import_dir, field)
    return path.relative_to(import_dir).parts


def _open_step(uri: str, step: str, folder: int, flags: int, field: str) -> int:
    try:
        # lstat first only to tell the reason; the refusal is O_NOFOLLOW's.
        if stat.S_ISLNK(os.stat(step, dir_fd=folder, follow_symlinks=False).st_mode):
            raise rejected("LINK_REFUSED", f"{uri} goes through the link {step!r}", field, hint="name the file itself")
        return os.open(step, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    except FileNotFoundError:
        raise rejected("ARTIFACT_MISSING", f"{uri} does not exist", field) from None
    except OSError as error:
        raise rejected("NOT_A_FILE", f"{uri} can't be read: {error.strerror}", field) from None


def _not_allowed(uri: str, import_dir: Path | None, field: str) -> Rejected:
    where = f"below {import_dir}" if import_dir else "in no folder: the registry has no import directory"
    return rejected("SOURCE_NOT_ALLOWED", f"{uri} is not allowed: file:// sources may lie {where}", field)
