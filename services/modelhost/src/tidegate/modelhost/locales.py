"""The locale that text models ask the C library for; made here where the system has none.

ONNX's StringNormalizer, which every converted TfidfVectorizer begins with, wants en_US.UTF-8 by name.
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Final

import structlog

NAME: Final = "en_US.UTF-8"
HINT: Final = f"install the locale {NAME} (Debian: apt-get install locales; localedef -i en_US -f UTF-8 {NAME})"
OPERATOR: Final = b"StringNormalizer"
COMPILE_TIMEOUT_S: Final = 60.0
_LC_ALL_MASK: Final = 0x1FBF  # glibc's

log = structlog.get_logger(__name__)


def is_installed(name: str = NAME) -> bool:
    """Say whether the C library has the locale ``name``."""
    library = ctypes.CDLL(None)
    library.newlocale.restype = ctypes.c_void_p
    library.newlocale.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    library.freelocale.argtypes = (ctypes.c_void_p,)
    found = library.newlocale(_LC_ALL_MASK, name.encode(), None)
    if found:
        library.freelocale(found)
    return bool(found)


class Locales:
    """Finds or makes the locale, once, and only for a model that may ask for it."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.absolute() / "locales"
        self._lock = threading.Lock()

    def folder_for(self, model: Path) -> Path | None:
        """Return the folder for LOCPATH; None where the system's locales do, or where it can't be made (logged)."""
        if not _asks_for_locale(model) or is_installed():
            return None
        with self._lock:
            if (self._folder / NAME).is_dir():
                return self._folder
            failure = _compile(self._folder)
        if failure:
            log.warning("text models won't load", missing=NAME, cause=failure, hint=HINT)
            return None
        return self._folder


def _asks_for_locale(model: Path) -> bool:
    """Say whether the operator's name is somewhere in the model; a false alarm costs two seconds, once."""
    if model.stat().st_size == 0:
        return False  # nothing to map
    with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(OPERATOR) >= 0


def _compile(folder: Path) -> str:
    """Make the locale below ``folder``; return why it failed, or an empty text."""
    program = shutil.which("localedef")
    if program is None:
        return "there is no localedef"
    folder.mkdir(parents=True, exist_ok=True)
    # A path, not a name: the system's own archive is left alone.
    begun = folder / "begun"
    shutil.rmtree(begun, ignore_errors=True)
    command = [program, "--no-archive", "-i", "en_US", "-f", "UTF-8", str(begun)]
    try:
        finished = subprocess.run(  # noqa: S603
            command, check=False, capture_output=True, timeout=COMPILE_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if finished.returncode != 0 or not begun.is_dir():
        return finished.stderr.decode(errors="replace").strip() or f"localedef ended with {finished.returncode}"
    begun.rename(folder / NAME)
    return ""
