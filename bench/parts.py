"""Single real parts of the stack for benchmarks that need no whole one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidegate.core.settings import KafkaSettings
from tidegate.stack.child import Child, running
from tidegate.stack.kafka import prepare_kafka
from tidegate.stack.maven import cache_dir, class_path, fetch_jars, read_lock, repository_url
from tidegate.stack.ports import LOOPBACK, free_ports
from tidegate.stack.program import Program
from tidegate.stack.readiness import grpc_serving, kafka_ready


def kafka_class_path() -> str:
    """Return the broker's class path; its jars are fetched on the first use."""
    return class_path(fetch_jars(read_lock(), cache=cache_dir(), url=repository_url()))


@contextmanager
def broker(folder: Path) -> Iterator[KafkaSettings]:
    """Run the embedded broker, alone."""
    folder.mkdir(parents=True, exist_ok=True)
    port, controller_port = free_ports(2)
    made = prepare_kafka(folder, port=port, controller_port=controller_port, class_path=kafka_class_path())
    bootstrap = f"{LOOPBACK}:{port}"
    with running(made, log=folder / "kafka.log", is_ready=lambda: kafka_ready(bootstrap)):
        yield KafkaSettings(bootstrap=bootstrap)


@contextmanager
def monitor(kafka: KafkaSettings, folder: Path) -> Iterator[tuple[Child, int]]:
    """Run the real monitor; yield it and its port."""
    (port,) = free_ports(1)
    made = Program(
        name="monitor",
        command=(sys.executable, "-m", "tidegate.monitor"),
        directory=folder,
        environment={
            "TIDEGATE_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "TIDEGATE_INSECURE": "true",
            "TIDEGATE_MONITOR_HOST": LOOPBACK,
            "TIDEGATE_MONITOR_PORT": str(port),
            "TIDEGATE_MONITOR_DATA_DIR": str(folder),
        },
    )
    with running(made, log=folder / "monitor.log", is_ready=lambda: grpc_serving(f"{LOOPBACK}:{port}")) as child:
        yield child, port
