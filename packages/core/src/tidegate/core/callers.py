"""Who calls: the callers that a server knows, from a file of tokens that is read again whenever it changes.

The file has no secrets: a token is known by its SHA-256. Tokens are random and long, so their digests need no salt,
and looking one up by its digest tells nothing by how long it takes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Self

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from tidegate.contracts.access import Role
from tidegate.core.errors import InvalidInput, PermissionDenied

log = structlog.get_logger(__name__)


class Caller(BaseModel):
    """A caller, known by the digest of its token or by the name in its certificate.

    ``models`` is the prefix of the models that it is bound to; empty = all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")]
    role: Role
    sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    certificate: Annotated[str, StringConstraints(max_length=253)] = ""
    models: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]*$")] = ""
    expires: AwareDatetime | None = None

    def has_expired(self, now: datetime) -> bool:
        """Return whether it is over by ``now``."""
        return self.expires is not None and self.expires <= now

    def may_touch(self, model: str) -> bool:
        """Return whether ``model`` is among its models."""
        return model.startswith(self.models)

    def check_model(self, model: str) -> None:
        """See that ``model`` is among its models.

        Raises:
            PermissionDenied: It is not (code MODEL_NOT_YOURS).

        """
        if not self.may_touch(model):
            raise PermissionDenied(
                f"{self.name} may touch models that begin with {self.models!r}, not {model!r}",
                code="MODEL_NOT_YOURS",
                hint="use a token without a prefix, or with another one",
            )


# Whoever calls where nobody is asked who they are.
ANONYMOUS: Final = Caller(name="anonymous", role=Role.ADMIN)
_current: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)


def current_caller() -> Caller:
    """Return who called, within a call."""
    return _current.get()


def set_current_caller(caller: Caller) -> None:
    """Say who called; gRPC runs each call in a task of its own, so nothing needs to be undone."""
    _current.set(caller)


class _Entry(Caller):
    @model_validator(mode="after")
    def _can_be_known(self) -> Self:
        if bool(self.sha256) == bool(self.certificate):
            raise ValueError("expected either sha256 (of the token) or certificate (a name in it)")
        return self


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[_Entry, ...]


class Callers:
    """All callers of one server."""

    def __init__(self, known: Iterable[Caller]) -> None:
        known = tuple(known)
        self._by_token = {caller.sha256: caller for caller in known if caller.sha256}
        self._by_certificate = {caller.certificate: caller for caller in known if caller.certificate}
        self.names = tuple(caller.name for caller in known)

    def with_token(self, token: str) -> Caller | None:
        """Return whose token ``token`` is."""
        return self._by_token.get(digest_of_token(token))

    def with_certificate(self, names: Iterable[str]) -> Caller | None:
        """Return whose certificate has one of ``names``."""
        return next((self._by_certificate[name] for name in names if name in self._by_certificate), None)


def digest_of_token(token: str) -> str:
    """Return the SHA-256 of ``token`` as the file has it: 64 lower-case hexadecimal digits."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_callers(text: str, *, source: str) -> tuple[Caller, ...]:
    """Return the callers in ``text``: ``{"tokens": [{"name", "role", "sha256", "models", "expires"}, ...]}``.

    Raises:
        InvalidInput: It is none, or two callers share a name, a token or a certificate (code TOKENS_UNREADABLE).

    """
    try:
        known = _Document.model_validate_json(text).tokens
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _unreadable(source, f"{where}: {first['msg']}" if where else str(first["msg"])) from None
    for field in ("name", "sha256", "certificate"):
        values = [value for caller in known if (value := getattr(caller, field))]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise _unreadable(source, f"two callers have the {field} {twice!r}")
    return known


def _unreadable(source: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{source} is no list of tokens: {why}",
        code="TOKENS_UNREADABLE",
        hint="docs/security.md shows the form; `tidegate tokens create` writes it",
    )


class CallersFile:
    """The callers in a file, as it stands; a file that can't be read leaves the last good ones in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Any = None
        self._callers = Callers(())
        try:
            self._read()
        except OSError as error:
            raise _unreadable(str(path), str(error)) from None

    def callers(self) -> Callers:
        """Return who is known now."""
        try:
            if self._stamp() != self._seen:
                self._read()
                log.info("tokens read again", file=str(self._path), callers=len(self._callers.names))
        except (OSError, InvalidInput) as error:
            # Once for each state of the file: it is looked at with every call.
            stamp = self._stamp_or_none()
            if stamp != self._seen:
                self._seen = stamp
                log.error("tokens can't be read, the last ones stay", file=str(self._path), error=str(error))  # noqa: TRY400
        return self._callers

    def _read(self) -> None:
        stamp = self._stamp()
        self._callers = Callers(read_callers(self._path.read_text(), source=str(self._path)))
        self._seen = stamp

    def _stamp(self) -> tuple[int, int, int]:
        found = os.stat(self._path)  # noqa: PTH116  (with every call: no more than is needed)
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _stamp_or_none(self) -> tuple[int, int, int] | None:
        try:
            return self._stamp()
        except OSError:
            return None


class FixedCallers:
    """The callers in a setting, for the life of the process."""

    def __init__(self, text: str) -> None:
        self._callers = Callers(read_callers(text, source="TIDEGATE_TOKENS"))

    def callers(self) -> Callers:
        """Return who is known."""
        return self._callers
