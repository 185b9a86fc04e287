"""``python -m tidegate.core.topics``: create the topics once, at installation (the compose file's one-shot job)."""

from __future__ import annotations

import sys

import structlog

from tidegate.core.bus import create_topics
from tidegate.core.errors import Unavailable
from tidegate.core.settings import KafkaSettings
from tidegate.core.telemetry import configure_logs

log = structlog.get_logger(__name__)


def main() -> int:
    """Create what is missing; return 1 if the broker can't be reached (the job is started again)."""
    configure_logs("topics")
    settings = KafkaSettings()
    try:
        created = create_topics(settings)
    except Unavailable as error:
        log.error("topics not created", code=error.code, error=str(error))  # noqa: TRY400  (the line says all)
        return 1
    log.info("topics are there", bootstrap=settings.bootstrap, created=created)
    return 0


if __name__ == "__main__":
    sys.exit(main())
