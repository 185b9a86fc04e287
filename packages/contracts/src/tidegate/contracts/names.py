"""Names of the public contract: models, versions, aliases, digests and references."""

from __future__ import annotations

import re
from typing import Final

from tidegate.v1.values_pb2 import Version

MODEL_PATTERN: Final = r"[a-z][a-z0-9-]{0,61}(?:\.[a-z][a-z0-9-]{0,61})?"
ALIAS_PATTERN: Final = r"[a-z][a-z0-9-]{0,31}"
VERSION_PATTERN: Final = r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})"
DIGEST_PATTERN: Final = r"sha256:[0-9a-f]{64}"

_MODEL = re.compile(MODEL_PATTERN)
_ALIAS = re.compile(ALIAS_PATTERN)
_VERSION = re.compile(VERSION_PATTERN)
_DIGEST = re.compile(DIGEST_PATTERN)


def is_model(name: str) -> bool:
    """Say whether ``name`` is a legal model name, optionally with one namespace in front."""
    return _MODEL.fullmatch(name) is not None


def is_alias(name: str) -> bool:
    """Say whether ``name`` is a legal alias (never a version number)."""
    return _ALIAS.fullmatch(name) is not None


def is_digest(text: str) -> bool:
    """Say whether ``text`` is ``sha256:`` and 64 hex digits."""
    return _DIGEST.fullmatch(text) is not None


def parse_version(text: str) -> Version:
    """Return the version written as MAJOR.MINOR.PIPELINE.

    Raises:
        ValueError: ``text`` is not three decimal numbers without leading zeros.

    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ValueError(f"version is {text!r}, expected MAJOR.MINOR.PIPELINE, for example 1.2.3")
    major, minor, pipeline = (int(group) for group in match.groups())
    return Version(major=major, minor=minor, pipeline=pipeline)


def format_version(version: Version) -> str:
    """Return ``version`` as MAJOR.MINOR.PIPELINE."""
    return f"{version.major}.{version.minor}.{version.pipeline}"


def version_reference(model: str, version: Version) -> str:
    """Return ``model@1.2.3``."""
    return f"{model}@{format_version(version)}"


def version_resource(model: str, version: Version) -> str:
    """Return the resource name ``models/M/versions/1.2.3``."""
    return f"models/{model}/versions/{format_version(version)}"


def parse_model_resource(name: str) -> str:
    """Return the model of the resource name ``models/M``.

    Raises:
        ValueError: ``name`` has another form.

    """
    prefix, _, model = name.partition("/")
    if prefix != "models" or not is_model(model):
        raise ValueError(f"name is {name!r}, expected models/MODEL with MODEL like {MODEL_PATTERN}")
    return model


def parse_version_name(name: str) -> tuple[str, Version | str]:
    """Return the model, and the version or alias, of ``models/M/versions/1.2.3`` or ``models/M@alias``.

    Raises:
        ValueError: ``name`` has another form.

    """
    by_version = re.fullmatch(rf"models/({MODEL_PATTERN})/versions/({VERSION_PATTERN})", name)
    if by_version is not None:
        return by_version.group(1), parse_version(by_version.group(2))
    by_alias = re.fullmatch(rf"models/({MODEL_PATTERN})@({ALIAS_PATTERN})", name)
    if by_alias is not None:
        return by_alias.group(1), by_alias.group(2)
    raise ValueError(f"name is {name!r}, expected models/MODEL/versions/1.2.3 or models/MODEL@ALIAS")


def parse_reference(reference: str) -> str:
    """Return the resource name of ``model@1.2.3`` or ``model@alias``.

    Raises:
        ValueError: ``reference`` has another form.

    """
    model, _, rest = reference.partition("@")
    name = f"models/{model}/versions/{rest}" if _VERSION.fullmatch(rest) else f"models/{model}@{rest}"
    try:
        parse_version_name(name)
    except ValueError:
        raise ValueError(f"reference is {reference!r}, expected MODEL@1.2.3 or MODEL@ALIAS") from None
    return name
