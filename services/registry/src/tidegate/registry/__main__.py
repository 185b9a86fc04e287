"""``python -m tidegate.registry``."""

from __future__ import annotations

from tidegate.core.process import run
from tidegate.core.settings import KafkaSettings, ObjectStoreSettings
from tidegate.core.telemetry import configure_logs
from tidegate.registry.service import serve
from tidegate.registry.settings import RegistrySettings


def main() -> None:
    """Run the registry with settings from the environment."""
    settings = RegistrySettings()
    configure_logs("registry", settings.log_level)
    run(lambda: serve(settings, KafkaSettings(), ObjectStoreSettings()))


if __name__ == "__main__":
    main()
