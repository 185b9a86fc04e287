"""``python -m tidegate.monitor``."""

from __future__ import annotations

from tidegate.core.process import run
from tidegate.core.settings import KafkaSettings
from tidegate.core.telemetry import configure_logs
from tidegate.monitor.service import serve
from tidegate.monitor.settings import MonitorSettings


def main() -> None:
    """Run the monitor with settings from the environment."""
    settings = MonitorSettings()
    configure_logs("monitor", settings.log_level)
    run(lambda: serve(settings, KafkaSettings()))


if __name__ == "__main__":
    main()
