"""The model host's shell as a model: processes that outlive it around the real life cycle of a server."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tidegate.modelhost import lifecycle
from tidegate.modelhost.lifecycle import Command, Decision, Server, Spec, State
from tidegate.modelhost.lifecycle import Process as SystemProcess
from tidegate.simulation.checker import Checker
from tidegate.simulation.plan import SERVERS_MAX
from tidegate.simulation.world import Process, World

STARTING_POLL_S: Final = 0.5
READY_POLL_S: Final = 1.0
STOP_GRACE_S: Final = 0.3


@dataclass(kw_only=True, slots=True)
class Running:
    """A process of the system: it answers from ``ready_s`` on, for ever if nobody ends it."""

    server_id: str
    pid: int
    endpoint: str
    started_s: float
    ready_s: float


class System:
    """The machine: its processes know nothing of the host that started them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.by_endpoint: dict[str, Running] = {}
        self._pids = 0

    def launch(self, server_id: str, ready_after_s: float) -> Running:
        """Start a process."""
        self._pids += 1
        endpoint = f"unix:/run/{server_id}.{self._pids}" if self.world.chance(0.3) else f"unix:/run/{server_id}"
        now_s = self.world.now_s
        running = Running(
            server_id=server_id, pid=self._pids, endpoint=endpoint, started_s=now_s, ready_s=now_s + ready_after_s
        )
        self.by_endpoint[endpoint] = running
        return running

    def of_server(self, server_id: str) -> list[Running]:
        """Return the processes that carry a server's mark."""
        return [one for one in self.by_endpoint.values() if one.server_id == server_id]

    def is_alive(self, pid: int) -> bool:
        """Say whether a process runs."""
        return any(one.pid == pid for one in self.by_endpoint.values())

    def end(self, running: Running) -> None:
        """End a process."""
        if self.by_endpoint.get(running.endpoint) is running:
            del self.by_endpoint[running.endpoint]

    def is_answering(self, endpoint: str) -> bool:
        """Say whether somebody answers there now."""
        running = self.by_endpoint.get(endpoint)
        return running is not None and running.ready_s <= self.world.now_s


class ModelHost(Process):
    """Keeps servers as their specs want them; its state file survives it."""

    def __init__(self, world: World, system: System, checker: Checker) -> None:
        super().__init__(world, "host")
        self.system = system
        self.checker = checker
        self.servers: dict[str, Server] = {}
        self.servers_max = SERVERS_MAX

    def on_start(self) -> None:
        """Take over the servers of the earlier host, and end what it could not write down."""
        for running in list(self.system.by_endpoint.values()):
            if running.server_id not in self.servers:
                self.say("ends %s, which nobody knows", running.server_id)
                self.system.end(running)
        for server_id, server in list(self.servers.items()):
            alive = server.process is not None and self.system.is_alive(server.process.pid)
            event = lifecycle.HostStarted(time=self._time(), is_alive=alive)
            self._carry_out(server_id, lifecycle.decide(server, event))
            self._watch(server_id)

    def ask_start(self, spec: Spec) -> str:
        """See that a server runs (level-triggered); return why there is no room for it, "" if there is."""
        server = self.servers.get(spec.server_id)
        if server is not None:
            self.checker.versions.on_spec(spec.server_id, server.spec.artifact_digest, spec.artifact_digest)
            return ""
        if len(self.servers) >= self.servers_max:
            return f"the model host runs {len(self.servers)} of {self.servers_max} servers"
        self.say("starts %s", spec.server_id)
        self._carry_out(spec.server_id, lifecycle.begin(spec, time=self._time()))
        self._watch(spec.server_id)
        return ""

    def ask_stop(self, server_id: str) -> None:
        """See that a server is gone."""
        server = self.servers.get(server_id)
        if server is not None and server.state is not State.STOPPING:
            self.say("stops %s", server_id)
            self._carry_out(server_id, lifecycle.decide(server, lifecycle.StopAsked(time=self._time())))

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self.world.now_s, tz=UTC)

    def _watch(self, server_id: str) -> None:
        def look() -> None:
            server = self.servers.get(server_id)
            if server is None:
                return
            self._carry_out(server_id, lifecycle.decide(server, self._observe(server)))
            kept = self.servers.get(server_id)
            if kept is server or kept is not None:
                self.later(STARTING_POLL_S if kept.state is State.STARTING else READY_POLL_S, look)

        self.later(STARTING_POLL_S, look)

    def _observe(self, server: Server) -> lifecycle.Observed:
        process = server.process
        alive = process is not None and self.system.is_alive(process.pid)
        ready = alive and self.system.is_answering(server.endpoint)
        return lifecycle.Observed(time=self._time(), is_alive=alive, is_ready=ready, exit_code=None if alive else -9)

    def _carry_out(self, server_id: str, decision: Decision) -> None:
        before = self.servers.get(server_id)
        # Saved before it is done: what a crash leaves is repeated.
        self.servers[server_id] = decision.server
        if before is None or before.state is not decision.server.state:
            self.say("%s is %s", server_id, decision.server.state)
            self.world.count(f"server: {decision.server.state}")
            if decision.server.state is State.READY:
                self.checker.versions.on_ready(server_id)
        delay_s = 0.0
        for command in decision.commands:
            match command:
                case Command.KILL:
                    delay_s += self.world.between(0.01, STOP_GRACE_S)
                    self.later(delay_s, lambda: self._kill(server_id))
                case Command.FORGET:
                    delay_s += 0.01
                    self.later(delay_s, lambda: self._forget(server_id))
                case Command.LAUNCH:
                    delay_s += self.world.between(0.02, 0.3)
                    self.later(delay_s, lambda: self._launch(server_id))

    def _kill(self, server_id: str) -> None:
        server = self.servers.get(server_id)
        # One that did not get ready in time may do so while it is being ended: it was down all the while.
        was_starting = server is not None and server.state is State.STARTING
        for running in self.system.of_server(server_id):
            is_answering = self.system.is_answering(running.endpoint) and not was_starting
            self.checker.versions.on_stopped(server_id, was_answering=is_answering)
            self.system.end(running)

    def _forget(self, server_id: str) -> None:
        self._kill(server_id)
        self.servers.pop(server_id, None)

    def _launch(self, server_id: str) -> None:
        server = self.servers.get(server_id)
        if server is None or server.state is not State.STARTING or server.process is not None:
            return
        quality = self.checker.facts.quality(server.spec.model, server.spec.version)
        running = self.system.launch(server_id, quality.load_s if quality.is_loadable else 1e9)

        def launched() -> None:
            known = self.servers.get(server_id)
            if known is None:
                return
            event = lifecycle.Launched(
                time=self._time(),
                process=SystemProcess(pid=running.pid, create_time_s=running.started_s),
                endpoint=running.endpoint,
                readiness_path="/ready",
                sandbox="limits",
                runtime_digest="r",
            )
            self._carry_out(server_id, lifecycle.decide(known, event))

        # Between the start and the note of it the host may die.
        self.later(self.world.between(0.0, 0.05), launched)
