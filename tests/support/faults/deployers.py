"""A second deployer beside the stack's own: a real process with ports of its own, and the same data plane."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from faults.failpoints import Site

from tidegate.stack import services
from tidegate.stack.child import Child
from tidegate.stack.layout import runtimes_dir
from tidegate.stack.object_store import ensure_credentials
from tidegate.stack.ports import LOOPBACK, free_ports
from tidegate.stack.program import Program
from tidegate.stack.readiness import grpc_serving
from tidegate.stack.tokens import Tokens


@contextmanager
def second_deployer(site: Site, folder: Path) -> Iterator[Child]:
    """Run another deployer for the length of a ``with`` block; it owns a share of the partitions at its start."""
    folder.mkdir(parents=True, exist_ok=True)
    port, metrics_port = free_ports(2)
    program = _program(site, folder, port=port, metrics_port=metrics_port)
    child = Child(program, folder / "deployer.log")
    try:
        child.wait_until(lambda: grpc_serving(f"{LOOPBACK}:{port}"), deadline_s=120)
        yield child
    finally:
        child.stop()


def _program(site: Site, folder: Path, *, port: int, metrics_port: int) -> Program:
    own = services.Site(
        layout=site.stack.layout,
        ports=replace(site.ports, deployer=port),
        credentials=ensure_credentials(site.stack.layout.credentials),
        runtimes_dir=runtimes_dir(),
        tokens=Tokens.of(site.stack.layout),
    )
    program = next(one for one in services.service_programs(own) if one.name == "deployer")
    environment = {
        name: str(metrics_port) if name.endswith("_METRICS_PORT") else value
        for name, value in program.environment.items()
    }
    return replace(program, directory=folder, environment=environment | {"TIDEGATE_DEPLOYER_DATA_DIR": str(folder)})


def owner_log(partition: int, *logs: Path) -> Path:
    """Return the log of the deployer that has taken ``partition`` last."""

    def taken(log: Path) -> str:
        lines = [line for line in log.read_text().splitlines() if '"partition taken"' in line]
        entries = [json.loads(line) for line in lines]
        return max((entry["timestamp"] for entry in entries if entry["partition"] == partition), default="")

    return max(logs, key=taken)


@contextmanager
def stalled(pid: int) -> Iterator[None]:
    """Stop a process for the length of a ``with`` block: it believes to own what others own by its end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it may have been killed meanwhile
            os.kill(pid, signal.SIGCONT)
