"""All servers of this host: start, stop, list; taking over what an earlier host left."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path
from typing import IO, Final

import structlog

from tidegate.core.clock import utc_now
from tidegate.core.errors import FailedPrecondition, NotFound, Unavailable
from tidegate.core.object_store import ObjectStore
from tidegate.modelhost import processes
from tidegate.modelhost.artifacts import ArtifactCache
from tidegate.modelhost.keeper import Keeper, Ports
from tidegate.modelhost.launcher import Launcher
from tidegate.modelhost.lifecycle import Server, Spec, State, begin
from tidegate.modelhost.metrics import show_servers
from tidegate.modelhost.settings import ModelHostSettings
from tidegate.modelhost.store import StateFile

LOG_LINES_DEFAULT: Final = 100
LOG_LINES_MAX: Final = 1000

log = structlog.get_logger(__name__)


class Host:
    """The servers by id; one host owns a data folder."""

    def __init__(self, settings: ModelHostSettings, store: ObjectStore) -> None:
        self._settings = settings
        self._state_file = StateFile(settings.data_dir / "servers.json")
        self.launcher = Launcher(settings)
        artifacts = ArtifactCache(
            directory=settings.data_dir / "artifacts",
            store=store,
            artifact_bytes_max=settings.artifact_bytes_max,
            cache_bytes_max=settings.artifact_cache_bytes_max,
        )
        self._lock = _lock(settings.data_dir)
        artifacts.clean()
        self._ports = Ports(
            launcher=self.launcher,
            artifacts=artifacts,
            runtimes_dir=settings.runtimes_dir.absolute(),
            stop_grace_s=settings.stop_grace_s,
            save=self._save,
            digests_in_use=lambda: {keeper.server.spec.artifact_digest for keeper in self._keepers.values()},
        )
        self._keepers: dict[str, Keeper] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Set by a keeper that ends with an error: the process ends and is started again.
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Take over the servers of an earlier host, and end what it could not write down."""
        servers = self._state_file.load()
        known = {server.spec.server_id for server in servers}
        for server_id in await asyncio.to_thread(processes.marks_alive, self._settings.data_dir) - known:
            log.warning("a server that nobody knows is ended", server_id=server_id)
            await processes.end(None, self.launcher.mark(server_id), grace_s=self._settings.stop_grace_s)
        show_servers(servers)
        for server in servers:
            keeper = Keeper(server, self._ports)
            self._keep(keeper, asyncio.create_task(keeper.adopt()))

    async def start(self, spec: Spec) -> Server:
        """See that a server with ``spec`` runs, and return it as it is now.

        A failed one stays failed until it is stopped: who asks again must see why.

        Raises:
            FailedPrecondition: The id runs something else, the sandbox level can't be reached, or the host is full.

        """
        self.launcher.require(spec.min_sandbox)
        keeper = self._keepers.get(spec.server_id)
        if keeper is not None and keeper.server.state is State.STOPPING:
            await asyncio.wait([self._tasks[spec.server_id]])
            keeper = self._keepers.get(spec.server_id)
        if keeper is None:
            return self._begin(spec)
        if keeper.server.spec != spec:
            raise FailedPrecondition(
                f"server {spec.server_id!r} runs {keeper.server.spec}, asked for is {spec}",
                code="SERVER_DIFFERS",
                field="spec",
                hint="stop it first, or use another server_id",
            )
        return keeper.server

    async def stop(self, server_id: str) -> None:
        """See that the server is gone with all its processes; nothing happens if there is none."""
        keeper = self._keepers.get(server_id)
        if keeper is not None:
            task = self._tasks[server_id]
            await keeper.ask_stop()
            await asyncio.wait([task])

    async def list(self) -> list[Server]:
        """Return all servers by id, with their memory as it is now."""
        keepers = [self._keepers[server_id] for server_id in sorted(self._keepers)]
        await asyncio.gather(*(keeper.measure() for keeper in keepers))
        return [keeper.server for keeper in keepers]

    def log_text(self, server_id: str, line_count: int) -> str:
        """Return the last lines of the server's log; raises NotFound."""
        keeper = self._keepers.get(server_id)
        if keeper is None:
            raise NotFound(f"server {server_id!r} does not exist", code="SERVER_UNKNOWN", field="server_id")
        lines = min(line_count or LOG_LINES_DEFAULT, LOG_LINES_MAX)
        return self.launcher.log_tail(keeper.server.spec, lines)

    async def close(self) -> None:
        """Stop the servers of validations; leave live ones running for the next host."""
        ids = [server_id for server_id, keeper in self._keepers.items() if not keeper.server.spec.restart]
        await asyncio.gather(*(self.stop(server_id) for server_id in ids))
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._save()
        self._lock.close()

    def _begin(self, spec: Spec) -> Server:
        if len(self._keepers) >= self._settings.servers_max:
            raise FailedPrecondition(
                f"the model host runs {len(self._keepers)} of {self._settings.servers_max} servers",
                code="SERVER_LIMIT_REACHED",
                hint="raise TIDEGATE_MODELHOST_SERVERS_MAX, or take models or versions out of service",
            )
        decision = begin(spec, time=utc_now())
        keeper = Keeper(decision.server, self._ports)
        self._keep(keeper, asyncio.create_task(keeper.run(decision)))
        return keeper.server

    def _keep(self, keeper: Keeper, task: asyncio.Task[None]) -> None:
        server_id = keeper.server.spec.server_id
        self._keepers[server_id] = keeper
        self._tasks[server_id] = task
        task.add_done_callback(lambda done: self._ended(server_id, done))

    def _ended(self, server_id: str, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            del self._keepers[server_id], self._tasks[server_id]
            self._save()
        elif not self.failure.done():
            self.failure.set_exception(error)

    def _save(self) -> None:
        self._state_file.save(keeper.server for keeper in self._keepers.values())
        show_servers(keeper.server for keeper in self._keepers.values())


def _lock(data_dir: Path) -> IO[str]:
    data_dir.mkdir(parents=True, exist_ok=True)
    stream = (data_dir / "lock").open("w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.close()
        raise Unavailable(f"{data_dir} belongs to another running model host", code="DATA_DIR_IN_USE") from error
    return stream
