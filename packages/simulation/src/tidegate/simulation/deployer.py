"""One deployer as a model: its workers, its proxies, and the model host that it keeps in step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tidegate.contracts.topics import ROUTES
from tidegate.deployer import events as core
from tidegate.deployer.hosts import Seen, Wanted, wanted_of
from tidegate.deployer.places import PlaceQueue
from tidegate.modelhost.lifecycle import Server, Spec, State
from tidegate.simulation.bus import Bus, Place, hash_of
from tidegate.simulation.checker import Checker
from tidegate.simulation.fleet import Fleet
from tidegate.simulation.modelhost import ModelHost
from tidegate.simulation.proxy import Proxy, Session
from tidegate.simulation.worker import Habits, Item, Worker
from tidegate.simulation.world import Process, World
from tidegate.v1.rollout_events_pb2 import RouteApplied, RouteTable

TICK_S: Final = 1.0
HOST_POLL_S: Final = (0.5, 1.5)
PROOF_EVERY_S: Final = 1.5
RETRY_FAILED_S: Final = 10.0
RETELL_S: Final = 5.0
LOAD_TIMEOUT_S: Final = 10.0


class Deployer(Process):
    """One deployer: perhaps the owner of all partitions, perhaps waiting to become it."""

    restart_s = (1.0, 4.0)

    def __init__(self, world: World, name: str, *, bus: Bus, host: ModelHost, checker: Checker) -> None:
        super().__init__(world, name)
        self.bus = bus
        self.host = host
        self.checker = checker
        self.habits = Habits()
        self.crash_after_commit = 0.0
        self.host_cut_until_s = 0.0
        self.workers: dict[int, Worker] = {}
        self.fleet = Fleet(self, self._on_applied, self._remember)
        self.on_joined: Callable[[Deployer], None] | None = None
        self._told: dict[str, Seen] = {}
        self._places = PlaceQueue()
        self._retried_s: dict[str, float] = {}
        self._followed: dict[Place, int] = {}

    def on_start(self) -> None:
        """Read what others committed, then join the group."""
        self.workers = {}
        self._told, self._retried_s, self._followed = {}, {}, {}
        self._places = PlaceQueue()
        self.fleet = Fleet(self, self._on_applied, self._remember)
        self.fleet.is_hasty = not self.habits.waits_for_all_proxies
        self.later(self.world.between(0.1, 1.0), self._catch_up)

    def _catch_up(self) -> None:
        if not self.bus.is_reachable(self):
            self.later(1.0, self._catch_up)
            return
        for partition in range(self.bus.partitions):
            place = Place(ROUTES.name, partition)
            self._followed[place] = 0
            if self.habits.carries_out_again:
                self._follow(place)
            self.bus.listen(place, hash_of(self.name), self._follower(place))
        self.every(TICK_S, self._tick)
        self.every(PROOF_EVERY_S, self._prove)
        self.every(RETELL_S, self._told.clear)
        self._host_round()
        if self.on_joined is not None:
            self.on_joined(self)

    def _follower(self, place: Place) -> Callable[[], None]:
        return lambda: self.later(self.world.between(0.002, 0.1), lambda: self._follow(place))

    def _follow(self, place: Place) -> None:
        """Apply the tables that any deployer has committed since."""
        if not self.bus.is_reachable(self):
            self.later(1.0, lambda: self._follow(place))
            return
        if place not in self._followed:
            return
        log = self.bus.log(*place)
        newest: dict[str, RouteTable] = {}
        for event in log[self._followed[place] :]:
            if isinstance(event.message, RouteTable):
                newest[event.message.model] = event.message
        self._followed[place] = len(log)
        for table in newest.values():
            self.fleet.apply(table)

    def _remember(self, node: str, *, is_member: bool) -> None:
        """Write down who may have a route; only the owner strikes a proxy off."""
        if is_member:
            self.bus.members.add(node)
        elif self.workers and all(worker.is_owner for worker in self.workers.values()):
            self.bus.members.discard(node)

    def assign(self, partition: int) -> None:
        """Take a partition: fence whoever had it, load, go on."""
        self.say("takes partition %d", partition)
        worker = Worker(self, partition)
        self.workers[partition] = worker
        self._told.clear()
        if self.habits.restores_leases:
            self.fleet.restore_leases(self.bus.members)
        self.later(self.world.between(0.05, 0.5), worker.load)

    def revoke(self) -> None:
        """Give all partitions up, in order; the proxies go to whoever has them next."""
        self.say("gives its partitions up")
        self.fleet.close()
        for worker in self.workers.values():
            worker.is_gone = True
        self.workers = {}

    def on_crash(self) -> None:
        """Lose what was in memory."""
        for worker in self.workers.values():
            worker.is_gone = True
        self.workers = {}

    def connect(self, proxy: Proxy) -> Session | None:
        """Take a proxy's stream."""
        return None if self.is_paused else self.fleet.connect(proxy)

    def _tick(self) -> None:
        for worker in self.workers.values():
            for model, state in worker.states.items():
                if state.rollout is not None:
                    worker.put(Item(model=model, event=core.Ticked(time_s=self.clock_s())))

    def _prove(self) -> None:
        for worker in list(self.workers.values()):
            worker.prove()

    def _on_applied(self, applied: RouteApplied) -> None:
        event = core.RouteAcknowledged(
            time_s=self.clock_s(),
            cause=f"RouteApplied {applied.epoch}.{applied.revision}",
            epoch=applied.epoch,
            revision=applied.revision,
        )
        worker = self._worker_of(applied.model)
        if worker is not None:
            worker.put(Item(model=applied.model, event=event if applied.complete else None, applied=applied))

    def _worker_of(self, model: str) -> Worker | None:
        worker = self.workers.get(self.bus.partition_of(model))
        return worker if worker is not None and model in worker.states else None

    # The model host, level-triggered.

    def _host_round(self) -> None:
        """Look at the servers; what follows from the look comes a little later."""
        self.later(self.world.between(*HOST_POLL_S), self._host_round)
        if not self.host.is_alive or self.world.now_s < self.host_cut_until_s:
            return
        listed = dict(self.host.servers)
        self.later(self.world.between(0.005, 0.1), lambda: self._act_on(listed))

    def _act_on(self, listed: dict[str, Server]) -> None:
        wanted = self._wanted()
        missing = {server_id: one.has_traffic for server_id, one in wanted.items() if server_id not in listed}
        for server_id in self._places.in_turn(missing):
            self._start(wanted[server_id])
        for server_id, one in wanted.items():
            if server_id in listed:
                self._look(one, listed[server_id])
        for server_id in [server_id for server_id in self._told if server_id not in wanted]:
            del self._told[server_id]
        for server_id, server in listed.items():
            worker = self._worker_of(server.spec.model)
            if server_id not in wanted and worker is not None and worker.is_entitled():
                self._stop(server_id)

    def _wanted(self) -> dict[str, Wanted]:
        wanted = {}
        for worker in self.workers.values():
            states = worker.committed if self.habits.acts_on_committed else worker.states
            for state in states.values():
                wanted.update({one.server_id: one for one in wanted_of(state)})
        return wanted

    def _start(self, one: Wanted) -> None:
        model, version, server_id = one.model, one.version, one.server_id
        worker = self._worker_of(model)
        if worker is None or not worker.is_entitled():
            return
        spec = Spec(
            server_id=server_id,
            model=model,
            version=str(version.number),
            artifact_uri=version.uri,
            artifact_digest=version.digest,
            artifact_format=version.format,
            runtime="kserve-onnx",
            load_timeout_s=LOAD_TIMEOUT_S,
            memory_mib_max=256,
            min_sandbox="limits",
            restart=True,
        )
        self.checker.versions.on_start_asked(self.name, spec.server_id)
        self._call(lambda: self._placed(one, self.host.ask_start(spec)))

    def _placed(self, one: Wanted, full: str) -> None:
        """Hear whether there was room."""
        if full:
            self._places.refused(one.server_id)
            self._say(Seen(model=one.model, number=one.version.number, endpoint="", ready=False, waiting=full))
        else:
            self._places.started(one.server_id)

    def _stop(self, server_id: str) -> None:
        self.checker.versions.on_stop_asked(self.name, server_id)
        self._told.pop(server_id, None)
        self._call(lambda: self.host.ask_stop(server_id))

    def _call(self, action: Callable[[], None]) -> None:
        """Let a request reach the host, if it is there when the request comes."""

        def arrive() -> None:
            if self.host.is_alive and self.world.now_s >= self.host_cut_until_s:
                action()

        self.world.later(self.world.between(0.001, 0.05), arrive)

    def _look(self, one: Wanted, server: Server) -> None:
        failed = server.state is State.FAILED
        failure = f"{server.reason.code}: {server.reason.message}" if failed and server.reason is not None else ""
        self._say(
            Seen(
                model=one.model,
                number=one.version.number,
                endpoint=server.endpoint,
                ready=server.state is State.READY,
                failure=failure,
            )
        )
        server_id = one.server_id
        if failed and self.world.now_s - self._retried_s.get(server_id, 0.0) >= RETRY_FAILED_S:
            self._retried_s[server_id] = self.world.now_s
            worker = self._worker_of(one.model)
            if worker is not None and worker.is_entitled():
                self._call(lambda: self.host.ask_stop(server_id))

    def _say(self, seen: Seen) -> None:
        """Let the core know how a server is, if it is not what was told last."""
        server_id = f"{seen.model}@{seen.number}"
        worker = self._worker_of(seen.model)
        if self._told.get(server_id) == seen:
            return
        self._told[server_id] = seen
        if worker is not None:
            told = "ready" if seen.ready else seen.failure or seen.waiting or "not ready"
            event = core.ServerChanged(
                time_s=self.clock_s(),
                cause=f"model host: {server_id} {told}",
                number=seen.number,
                endpoint=seen.endpoint,
                ready=seen.ready,
                failure=seen.failure,
                waiting=seen.waiting,
            )
            worker.put(Item(model=seen.model, event=event))
