"""Who may ask for predictions, from a file; the gateway lets everybody in where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from tidegate.core.errors import InvalidInput
from tidegate.deployer.xds.tuning import GatewayCaller

_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")]
# What a header can carry; short ones are guessed.
_Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~+/=-]{16,512}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: _Name
    token: _Token


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    callers: tuple[_Entry, ...]


def read_gateway_callers(path: Path | None) -> tuple[GatewayCaller, ...]:
    """Return the callers in ``{"callers": [{"name", "token"}, ...]}`` at ``path``; none without a file.

    Raises:
        InvalidInput: It can't be read, names nobody, or a token twice (code GATEWAY_CALLERS_UNREADABLE).

    """
    if path is None:
        return ()
    try:
        entries = _Document.model_validate_json(path.read_text()).callers
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _unreadable(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    # An empty list would open the gateway to everybody.
    if not entries or len({entry.token for entry in entries}) < len(entries):
        raise _unreadable(path, "expected at least one caller, each with a token of its own")
    return tuple(GatewayCaller(name=entry.name, token=entry.token) for entry in entries)


def _unreadable(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path} is no list of the gateway's callers: {why}",
        code="GATEWAY_CALLERS_UNREADABLE",
        hint="docs/security.md shows the form",
    )
