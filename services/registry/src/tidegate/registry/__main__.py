"""``python -m tidegate.registry``."""

from __future__ import annotations

from tidegate.core.process import run
from tidegate.core.settings import KafkaSettings, ObjectStoreSettings
from tidegate.core.telemetry import start_telemetry
from tidegate.registry.service import serve
from tidegate.registry.settings import RegistrySettings


async def start() -> None:
    """Serve with settings from the environment until a signal asks to stop."""
    settings = RegistrySettings()
    start_telemetry("registry", settings)
    await serve(settings, KafkaSettings(), ObjectStoreSettings())


def main() -> None:
    """Run the registry."""
    run(start)


if __name__ == "__main__":
    main()
