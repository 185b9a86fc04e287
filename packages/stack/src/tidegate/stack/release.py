"""What runs, and whether this release would run something else: programs are told apart by content, not by path."""

from __future__ import annotations

import hashlib
import shlex
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Final

import tidegate

RELEASE_VARIABLE: Final = "TIDEGATE_RELEASE"
_EXPORT: Final = "export"
_EXEC: Final = "exec"
# The launcher of every Java is the same; what it launches says so here.
_JAVA_RELEASE: Final = Path("..") / "release"


@cache
def this_release() -> str:
    """Return ``VERSION+DIGEST``: the digest is over the code, so that it tells two states of one checkout apart."""
    sha256 = hashlib.sha256()
    files = {path.relative_to(root): path for root in map(Path, tidegate.__path__) for path in root.rglob("*.py")}
    for name, path in sorted(files.items()):
        sha256.update(f"{name}\0".encode() + path.read_bytes())
    return f"{version('tidegate-stack')}+{sha256.hexdigest()[:16]}"


def exports(script: str) -> dict[str, str]:
    """Return the variables that a part's start script sets."""
    words = shlex.split(script, comments=True)
    pairs = (after.partition("=") for word, after in pairwise(words) if word == _EXPORT)
    return {name: value for name, _, value in pairs}


def release_of(script: str) -> str:
    """Return the release that wrote a service's start script; empty = one that did not say."""
    return exports(script).get(RELEASE_VARIABLE, "")


def content_of(script: str) -> str:
    """Return a digest of what a start script runs: its words and variables, each file by its bytes.

    Two scripts of different environments have the same content if they run the same binaries with the same files.
    """
    words = shlex.split(script, comments=True)
    command = words[words.index(_EXEC) + 1 :]
    words = [word for word in command if word != "$@"]
    parts = [_content_of_word(word) for word in words]
    parts += [f"{name}={value}" for name, value in sorted(exports(script).items())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _content_of_word(word: str) -> str:
    option, _, value = word.rpartition("=")
    paths = [Path(each) for each in value.split(":")]
    if not all(path.is_absolute() and path.is_file() for path in paths):
        return word
    return f"{option}:" + ",".join(_content_of_file(path) for path in paths)


def _content_of_file(path: Path) -> str:
    java_release = path.parent / _JAVA_RELEASE
    extra = java_release.read_bytes() if path.name == "java" and java_release.is_file() else b""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() + hashlib.sha256(extra).hexdigest()
