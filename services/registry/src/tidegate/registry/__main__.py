"""``python -m tidegate.registry``: the registry itself, or one of the operator's commands (``--help``)."""

from __future__ import annotations

import sys

from tidegate.core.process import run
from tidegate.core.settings import KafkaSettings, ObjectStoreSettings
from tidegate.core.telemetry import configure_logs, start_telemetry
from tidegate.registry.backup import operations
from tidegate.registry.settings import RegistrySettings


async def start() -> None:
    """Serve with settings from the environment until a signal asks to stop."""
    # Only here: a command needs no stream processing, which takes long to load.
    from tidegate.registry.service import serve  # noqa: PLC0415

    settings = RegistrySettings()
    start_telemetry("registry", settings)
    await serve(settings, KafkaSettings(), ObjectStoreSettings())


def main() -> None:
    """Run the registry, or the command that the arguments name."""
    if len(sys.argv) > 1:
        configure_logs("registry", RegistrySettings().log_level)
        sys.exit(operations.run(sys.argv[1:]))
    run(start)


if __name__ == "__main__":
    main()
