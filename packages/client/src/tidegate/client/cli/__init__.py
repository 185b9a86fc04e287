"""The command line ``tidegate``."""

from tidegate.client.cli.app import app, main

__all__ = ["app", "main"]
