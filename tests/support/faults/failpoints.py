"""What is broken: each failpoint strikes one thing of a running stack, and knows when it is whole again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import psutil

from tidegate.core.channels import open_channel
from tidegate.core.clock import utc_now
from tidegate.core.settings import CallerSettings
from tidegate.modelhost.processes import MARK_NAME
from tidegate.stack.object_store import ensure_credentials
from tidegate.stack.parts import parts
from tidegate.stack.ports import LOOPBACK, PortPlan
from tidegate.stack.record import load
from tidegate.stack.stack import Stack
from tidegate.stack.supervisor import Supervisor
from tidegate.stack.tokens import LOCAL
from tidegate.v1 import modelhost_service_pb2 as host_pb
from tidegate.v1.modelhost_service_pb2_grpc import ModelHostServiceStub

BACK_S = 120.0
POLL_S = 0.1
CONTROL_PLANE = ("registry", "validator", "deployer", "monitor", "modelhost", "modelhost-sandbox")


@dataclass(frozen=True, kw_only=True)
class Site:
    """The running stack, as whoever breaks it sees it."""

    stack: Stack

    @property
    def ports(self) -> PortPlan:
        """The ports of its parts."""
        record = load(self.stack.layout)
        assert record is not None
        return record.ports

    @property
    def supervisor(self) -> Supervisor:
        """Who starts its parts again."""
        return Supervisor(self.stack.layout)

    def pid(self, part: str) -> int:
        """Return the process id of ``part``; 0 while it is down."""
        return self.supervisor.states()[part].pid

    def wait_alive(self, part: str) -> int:
        """Wait until ``part`` runs, ready or not; return its process id."""

        def is_alive() -> bool:
            # Its supervisor goes on naming one that was killed until it has noticed.
            try:
                return psutil.Process(self.pid(part)).status() != psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return False

        wait_until(lambda: self.pid(part) != 0 and is_alive(), f"{part} runs")
        return self.pid(part)

    def is_ready(self, part: str) -> bool:
        """Return whether ``part`` answers."""
        return parts(self.ports, ensure_credentials(self.stack.layout.credentials))[part].is_ready()

    def wait_ready(self, part: str, *, other_than: int = 0) -> None:
        """Wait until ``part`` runs as a process ``other_than`` the one that died, and answers."""

        def is_back() -> bool:
            return self.pid(part) not in {0, other_than} and self.is_ready(part)

        wait_until(is_back, f"{part} is back")

    @property
    def caller(self) -> CallerSettings:
        """Who we are to the services."""
        return CallerSettings(token_file=self.stack.layout.tokens / LOCAL)

    def servers(self, part: str = "modelhost") -> dict[str, host_pb.Server]:
        """Return the model servers of a host, by their ids."""
        port = self.ports.modelhost if part == "modelhost" else self.ports.modelhost_sandbox
        with open_channel(f"{LOOPBACK}:{port}", self.caller) as channel:
            listed = ModelHostServiceStub(channel).ListServers(
                host_pb.ListServersRequest(), timeout=10, wait_for_ready=True
            )
        return {server.spec.server_id: server for server in listed.servers}

    def server_processes(self, server_id: str, part: str = "modelhost") -> list[psutil.Process]:
        """Return the processes of a model server."""
        mark = f"{self.stack.layout.part(part)}|{server_id}"
        return [process for process in psutil.process_iter() if _mark_of(process) == mark]


class Wound(Protocol):
    """Something broken."""

    def heal(self) -> None:
        """Wait until it is whole again."""


class FailPoint(Protocol):
    """Something that can be broken; ``name`` says what."""

    name: str

    def strike(self, site: Site, *, candidate: str, stable: str) -> Wound:
        """Break it; ``candidate`` and ``stable`` are the ids of the servers of the rollout that runs."""


@dataclass(frozen=True, kw_only=True)
class Healing:
    """A wound that heals by itself.

    It was struck between ``began_s`` and ``dead_s``, in epoch seconds; ``of`` is the server if it is one's.
    """

    what: str
    of: str = ""
    began_s: float
    dead_s: float
    heal: Callable[[], None]


@dataclass(frozen=True)
class Kill:
    """SIGKILL for one part of the stack; its supervisor starts it again."""

    part: str

    @property
    def name(self) -> str:
        """What is killed."""
        return self.part

    def strike(self, site: Site, *, candidate: str, stable: str) -> Healing:
        # It may lie dead from a strike before: what is dead can't be killed.
        pid = site.wait_alive(self.part)
        began_s = utc_now().timestamp()
        _kill(pid)
        return Healing(
            what=self.part,
            began_s=began_s,
            dead_s=utc_now().timestamp(),
            heal=lambda: site.wait_ready(self.part, other_than=pid),
        )


@dataclass(frozen=True)
class KillServer:
    """SIGKILL for all processes of the candidate's or the stable version's live server."""

    role: str

    @property
    def name(self) -> str:
        """What is killed."""
        return f"{self.role}'s server"

    def strike(self, site: Site, *, candidate: str, stable: str) -> Healing:
        server_id = candidate if self.role == "candidate" else stable
        began_s = utc_now().timestamp()
        dead = _kill_processes(site, server_id)

        def is_back() -> bool:
            server = site.servers().get(server_id)
            if server is None:
                return True  # nobody wants it any more
            alive = {process.pid for process in site.server_processes(server_id)}
            return server.state == host_pb.SERVER_STATE_READY and bool(alive) and not alive & dead

        return Healing(
            what=self.name,
            of=server_id,
            began_s=began_s,
            dead_s=utc_now().timestamp(),
            heal=lambda: wait_until(is_back, f"{server_id} is back"),
        )


@dataclass(frozen=True)
class Outage:
    """Parts that are killed and stay dead, until ``heal`` starts them again."""

    parts: tuple[str, ...] = field(default=CONTROL_PLANE)

    @property
    def name(self) -> str:
        """What is killed."""
        return "+".join(self.parts)

    def strike(self, site: Site, *, candidate: str, stable: str) -> Healing:
        began_s = utc_now().timestamp()
        for part in self.parts:
            pid = site.pid(part)
            # In this order, so that the supervisor does not start it again; no time is left for a tidy end.
            site.supervisor.stop_part(part)
            if pid:
                _kill(pid)
        wait_until(lambda: all(site.pid(part) == 0 for part in self.parts), "all are dead")

        def heal() -> None:
            for part in self.parts:
                site.supervisor.start_part(part)
            for part in self.parts:
                site.wait_ready(part)

        return Healing(what=self.name, began_s=began_s, dead_s=utc_now().timestamp(), heal=heal)


def wait_until(is_so: Callable[[], bool], what: str, *, deadline_s: float = BACK_S) -> None:
    """Wait until ``is_so``; fail after ``deadline_s``."""
    deadline = time.monotonic() + deadline_s
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(POLL_S)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _kill_processes(site: Site, server_id: str) -> set[int]:
    """Kill all processes of a server as soon as there are any; return their ids."""
    dead: set[int] = set()

    def found_any() -> bool:
        for process in site.server_processes(server_id):
            dead.add(process.pid)
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        return bool(dead)

    wait_until(found_any, f"{server_id} has a process", deadline_s=30)
    return dead


def _mark_of(process: psutil.Process) -> str:
    try:
        return process.environ().get(MARK_NAME, "")
    except (psutil.Error, OSError):
        return ""
