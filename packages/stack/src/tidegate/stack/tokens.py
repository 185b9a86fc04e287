"""The tokens of the embedded stack: one for each part that calls another, one for whoever may read its folder.

``tokens.json`` has what the services check (digests, no secrets); the folder ``tokens`` has the tokens themselves, one
a file. All are readable by their owner alone.
"""

from __future__ import annotations

import fcntl
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from tidegate.contracts.access import Role
from tidegate.core.callers import Caller, digest_of_token, read_callers
from tidegate.core.errors import AlreadyExists, InvalidInput, NotFound
from tidegate.stack.layout import Layout
from tidegate.stack.private import write_private

TOKEN_BYTES: Final = 32
# The person who started the stack: their commands find it.
LOCAL: Final = "local"
GATEWAY: Final = "gateway"
OWN_TOKENS: Final[Mapping[str, Role]] = {
    LOCAL: Role.ADMIN,
    "deployer": Role.SERVICE,
    "validator": Role.SERVICE,
    GATEWAY: Role.SERVICE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Where the tokens of a stack are."""

    file: Path
    folder: Path

    @classmethod
    def of(cls, layout: Layout) -> Tokens:
        """Return those of the stack in ``layout``."""
        return cls(file=layout.tokens_file, folder=layout.tokens)

    def path_of(self, name: str) -> Path:
        """Return the file with the token of ``name``."""
        return self.folder / name

    def read(self, name: str) -> str:
        """Return the token of ``name``; empty if there is none."""
        path = self.path_of(name)
        return path.read_text().strip() if path.exists() else ""


def new_token() -> str:
    """Return a fresh token: its prefix tells scanners for leaked secrets what it is."""
    return "tdg_" + secrets.token_urlsafe(TOKEN_BYTES)


def ensure_tokens(tokens: Tokens) -> None:
    """Make the stack's own tokens that do not exist yet; other callers in the file stay as they are."""
    tokens.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with changing(tokens.file) as callers:
        for name, role in OWN_TOKENS.items():
            if not tokens.path_of(name).exists():
                write_private(tokens.path_of(name), new_token() + "\n")
            token = tokens.read(name)
            callers[name] = Caller(name=name, role=role, sha256=digest_of_token(token))


def create_token(file: Path, *, name: str, role: Role, models: str = "", expires: datetime | None = None) -> str:
    """Add a caller to ``file``; return its token, which stands nowhere else.

    Raises:
        AlreadyExists: There is a caller of this name (code TOKEN_EXISTS).
        InvalidInput: The name or the prefix is none (code TOKEN_INVALID).

    """
    token = new_token()
    try:
        caller = Caller(name=name, role=role, sha256=digest_of_token(token), models=models, expires=expires)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        raise InvalidInput(
            f"{field} is {first['input']!r}: {first['msg']}", code="TOKEN_INVALID", field=field
        ) from None
    with changing(file) as callers:
        if name in callers:
            raise AlreadyExists(
                f"{file} has a caller {name!r}", code="TOKEN_EXISTS", hint="revoke it first, or take another name"
            )
        callers[name] = caller
    return token


def revoke_token(file: Path, name: str) -> None:
    """Remove the caller ``name`` from ``file``.

    Raises:
        NotFound: There is none (code TOKEN_NOT_FOUND).

    """
    with changing(file) as callers:
        if callers.pop(name, None) is None:
            raise NotFound(f"{file} has no caller {name!r}", code="TOKEN_NOT_FOUND", hint="`tidegate tokens list`")


def callers_in(file: Path) -> tuple[Caller, ...]:
    """Return the callers in ``file``; none if there is no such file."""
    return read_callers(file.read_text(), source=str(file)) if file.exists() else ()


@contextmanager
def changing(file: Path) -> Iterator[dict[str, Caller]]:
    """Yield the callers in ``file`` by name, and write what they are then; one process at a time."""
    # Tokens may be made before the stack's first start.
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = file.with_name(file.name + ".lock")
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        before = callers_in(file)
        callers = {caller.name: caller for caller in before}
        yield callers
        if tuple(callers.values()) != before:
            write_private(file, document_of(callers.values()))


def document_of(callers: Iterable[Caller]) -> str:
    """Return the file that has ``callers``."""
    entries = [caller.model_dump(mode="json", exclude_defaults=True) for caller in callers]
    return json.dumps({"tokens": entries}, indent=2) + "\n"
