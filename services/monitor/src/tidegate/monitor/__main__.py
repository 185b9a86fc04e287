"""``python -m tidegate.monitor``."""

from __future__ import annotations

from tidegate.core.process import run
from tidegate.core.settings import KafkaSettings
from tidegate.core.telemetry import start_telemetry
from tidegate.monitor.service import serve
from tidegate.monitor.settings import MonitorSettings


async def start() -> None:
    """Serve with settings from the environment until a signal asks to stop."""
    settings = MonitorSettings()
    start_telemetry("monitor", settings)
    await serve(settings, KafkaSettings())


def main() -> None:
    """Run the monitor."""
    run(start)


if __name__ == "__main__":
    main()
