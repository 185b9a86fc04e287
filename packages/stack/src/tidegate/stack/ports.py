"""Which part listens where on loopback."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Final, Self

import psutil

from tidegate.core.errors import FailedPrecondition, InvalidInput

DEFAULT_PORT_BASE: Final = 7400
LOOPBACK: Final = "127.0.0.1"
_LOWEST_BASE: Final = 1024
_METRICS: Final = "_metrics"


@dataclass(frozen=True, kw_only=True, slots=True)
class PortPlan:
    """The port of each part; the order is that of ``--port-base``."""

    kafka: int
    kafka_controller: int
    object_store: int
    gateway: int
    registry: int
    deployer: int
    monitor: int
    validator: int
    modelhost: int
    modelhost_sandbox: int
    registry_metrics: int
    deployer_metrics: int
    monitor_metrics: int
    validator_metrics: int
    modelhost_metrics: int
    modelhost_sandbox_metrics: int

    @classmethod
    def from_base(cls, base: int) -> Self:
        """Return ``base`` and the ports that follow it, one a part.

        Raises:
            InvalidInput: They would not be ports that anybody may listen on.

        """
        highest = 65536 - len(fields(cls))
        if not _LOWEST_BASE <= base <= highest:
            raise InvalidInput(
                f"--port-base is {base}, expected {_LOWEST_BASE} to {highest}, or 0 for free ports",
                code="PORT_BASE_INVALID",
                field="port_base",
            )
        return cls(**{each.name: base + place for place, each in enumerate(fields(cls))})

    @classmethod
    def free(cls) -> Self:
        """Return ports that are free now."""
        names = [each.name for each in fields(cls)]
        return cls(**dict(zip(names, free_ports(len(names)), strict=True)))

    @classmethod
    def completed(cls, known: Mapping[str, int], *, base: int) -> Self:
        """Return ``known`` with the ports of metrics, which 0.1.0 did not have: after ``base``, or (0) not chosen yet.

        Raises:
            TypeError: Another port is missing.

        """
        later = [each.name for each in fields(cls) if each.name.endswith(_METRICS)]
        others = {name: getattr(cls.from_base(base), name) if base else 0 for name in later}
        return cls(**others | dict(known))

    def settled(self) -> Self:
        """Return the plan with a free port where none was chosen yet."""
        ports = asdict(self)
        unset = [name for name, port in ports.items() if not port]
        return replace(self, **dict(zip(unset, free_ports(len(unset)), strict=True)))

    def metrics(self) -> dict[str, int]:
        """Return the port of each service's metrics by the part's name."""
        ports = asdict(self)
        return {
            name.removesuffix(_METRICS).replace("_", "-"): port
            for name, port in ports.items()
            if name.endswith(_METRICS)
        }

    def taken(self, *, is_free: Callable[[int], bool] | None = None) -> dict[str, int]:
        """Return the parts whose port somebody has, with the port."""
        question = is_free or port_is_free
        return {name: port for name, port in asdict(self).items() if not question(port)}


def free_ports(count: int) -> tuple[int, ...]:
    """Return ``count`` different TCP ports of loopback that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return tuple(each.getsockname()[1] for each in sockets)
    finally:
        for each in sockets:
            each.close()


def port_is_free(port: int) -> bool:
    """Return whether a server could listen on ``port`` of loopback."""
    with socket.socket() as probe:
        # Connections of a server that is gone (TIME_WAIT) do not keep its successor out.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def check_free(plan: PortPlan) -> None:
    """Do nothing if every port is free.

    Raises:
        FailedPrecondition: One is taken; the message says which, wanted by which part, and by whom if that can be seen.

    """
    taken = plan.taken()
    if not taken:
        return
    lines = [
        f"port {port}, wanted by {name.replace('_', '-')}, is taken{_by_whom(port)}" for name, port in taken.items()
    ]
    raise FailedPrecondition(
        "; ".join(lines),
        code="PORT_TAKEN",
        hint="end that program, or choose other ports: --port-base 17400, or --port-base 0 for any that are free",
    )


def _by_whom(port: int) -> str:
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return ""
    for each in connections:
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid:
            try:
                process = psutil.Process(each.pid)
                return f" by {process.name()} (process {each.pid})"
            except psutil.Error:
                return f" by process {each.pid}"
    return ""
