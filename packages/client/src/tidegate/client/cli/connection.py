"""How commands reach Tidegate: the option ``--stack`` and the environment."""

from __future__ import annotations

from pathlib import Path

import typer

from tidegate.client.client import TidegateClient
from tidegate.client.settings import ClientSettings, load_settings


def settings_of(context: typer.Context) -> ClientSettings:
    """Return the settings that the global options and the environment ask for."""
    stack = (context.find_root().obj or {}).get("stack")
    return load_settings(stack=Path(stack) if stack else None)


def connect(context: typer.Context) -> TidegateClient:
    """Return a client; use as ``with``."""
    return TidegateClient(settings_of(context))
