"""What docker-compose.yml says, by the real Compose, so that its settings are tested where there is no Docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@cache
def compose_file() -> dict[str, Any]:
    """Return the whole file with fresh secrets, all variables and anchors filled in."""
    fresh = subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "new_env.py"), "-"], capture_output=True, text=True, check=True
    )
    lines = (line for line in fresh.stdout.splitlines() if line and not line.startswith("#"))
    variables = dict(word.split("=", 1) for line in lines for word in shlex.split(line))
    compose = Path(sysconfig.get_path("scripts")) / "docker-compose"
    shown = subprocess.run(
        [compose, "--file", ROOT / "docker-compose.yml", "--env-file", os.devnull, "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(Path.home())} | variables,
    )
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


def environment(service: str) -> dict[str, str]:
    """Return the variables of one service."""
    found: dict[str, str] = compose_file()["services"][service]["environment"]
    return found


def broker_settings() -> dict[str, str]:
    """Return the broker's settings by Kafka's names, read from the variables as its image reads them."""
    return {_kafka_name(name): value for name, value in environment("kafka").items() if name.startswith("KAFKA_")}


def _kafka_name(variable: str) -> str:
    replaced = {"_": ".", "__": "_", "___": "-"}
    return re.sub("_+", lambda match: replaced[match.group()], variable.removeprefix("KAFKA_")).lower()
