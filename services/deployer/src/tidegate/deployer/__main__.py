"""``python -m tidegate.deployer``."""

from __future__ import annotations

from tidegate.core.process import run
from tidegate.core.settings import KafkaSettings
from tidegate.core.telemetry import configure_logs
from tidegate.deployer.serving import serve
from tidegate.deployer.settings import DeployerSettings


def main() -> None:
    """Run the deployer with settings from the environment."""
    settings = DeployerSettings()
    configure_logs("deployer", settings.log_level)
    run(lambda: serve(settings, KafkaSettings()))


if __name__ == "__main__":
    main()
