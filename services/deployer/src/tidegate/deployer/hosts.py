"""The live model host: level-triggered, wanted servers run and others of our models do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import grpc
import structlog

from tidegate.contracts.names import format_version
from tidegate.core.grpc_errors import reason_of
from tidegate.deployer.places import PlaceQueue
from tidegate.deployer.state import KnownVersion, ModelState, Number
from tidegate.deployer.wire import number_from, version_from
from tidegate.v1 import modelhost_service_pb2 as pb
from tidegate.v1.modelhost_service_pb2_grpc import ModelHostServiceStub
from tidegate.v1.values_pb2 import Artifact

POLL_BUSY_S: Final = 0.1
POLL_CALM_S: Final = 1.0
CALL_TIMEOUT_S: Final = 5.0
RETRY_FAILED_S: Final = 10.0
RETELL_S: Final = 5.0
HOST_FULL: Final = "SERVER_LIMIT_REACHED"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A server that shall run; one that a route names comes before one that is only about to have traffic."""

    model: str
    version: KnownVersion
    has_traffic: bool

    @property
    def server_id(self) -> str:
        """Return the name of the server in its host."""
        return f"{self.model}@{self.version.number}"


def wanted_of(state: ModelState) -> list[Wanted]:
    """Return the servers that a model wants; a version that was blessed before its registration came has none yet."""
    named = state.route.versions()
    known = [state.version(number) for number in state.wanted_servers()]
    return [
        Wanted(model=state.model, version=version, has_traffic=version.number in named)
        for version in known
        if version is not None
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """How a server is, as far as decisions care; ``waiting`` says what its start waits for."""

    model: str
    number: Number
    endpoint: str
    ready: bool
    failure: str = ""
    waiting: str = ""


class LiveHost:
    """Keeps one model host in step; ``tell`` hears of every change, ``wanted`` and ``owns`` are asked at each round."""

    def __init__(
        self,
        *,
        channel: grpc.aio.Channel,
        runtime: str,
        load_timeout_s: float,
        drain_s: float,
        wanted: Callable[[], Iterable[Wanted]],
        owns: Callable[[str], bool],
        tell: Callable[[Seen], None],
    ) -> None:
        self._channel = channel
        self._stub = ModelHostServiceStub(self._channel)
        self._runtime = runtime
        self._load_timeout_s = load_timeout_s
        self._drain_s = drain_s
        self._wanted = wanted
        self._owns = owns
        self._tell = tell
        self._told: dict[str, Seen] = {}
        self._retried_s: dict[str, float] = {}
        self._unwanted_s: dict[str, float] = {}
        self._retold_s = 0.0
        self._places = PlaceQueue()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look at once: what is wanted has changed."""
        self._wake.set()

    def forget(self) -> None:
        """Tell everything again, since somebody new listens."""
        self._told.clear()
        self._wake.set()

    async def run(self) -> None:
        """Keep the host in step until cancelled; while it is away live servers go on, and we try again."""
        while True:
            self._wake.clear()
            try:
                busy = await self._round()
            except grpc.aio.AioRpcError as error:
                log.warning("model host away, trying again", code=error.code().name, detail=error.details())
                busy = False
            try:
                await asyncio.wait_for(self._wake.wait(), POLL_BUSY_S if busy else POLL_CALM_S)
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Close the connection; servers go on."""
        await self._channel.close(None)

    async def _round(self) -> bool:
        """Bring the host one step nearer to what is wanted; return whether something is still on its way."""
        listed = await self._stub.ListServers(pb.ListServersRequest(), timeout=CALL_TIMEOUT_S)
        running = {server.spec.server_id: server for server in listed.servers}
        wanted = {one.server_id: one for one in self._wanted()}
        missing = {server_id: one.has_traffic for server_id, one in wanted.items() if server_id not in running}
        # Before the looks: a server that has failed is stopped there, and its place stays its own.
        for server_id in self._places.in_turn(missing):
            await self._start(wanted[server_id])
        for server_id in wanted.keys() - missing.keys():
            await self._look(wanted[server_id], running[server_id])
        self._forget_unwanted(wanted.keys())
        for server_id in self._drained(running, wanted.keys()):
            await self._stop(server_id)
        settled = (pb.SERVER_STATE_READY, pb.SERVER_STATE_FAILED)
        moving = [server_id for server_id, server in running.items() if server.state not in settled]
        starting = [server_id for server_id in missing if server_id not in self._places]
        return bool(starting) or any(server_id in wanted for server_id in moving)

    def _drained(self, running: Mapping[str, pb.Server], wanted: Collection[str]) -> list[str]:
        """Return our servers that nobody has wanted for ``drain_s``.

        The proxies send them no new requests; one that was under way may still be tried again there.
        """
        now_s = asyncio.get_running_loop().time()
        unwanted = [
            server_id
            for server_id, server in running.items()
            if server_id not in wanted and self._owns(server.spec.model)
        ]
        self._unwanted_s = {server_id: self._unwanted_s.get(server_id, now_s) for server_id in unwanted}
        return [server_id for server_id, since_s in self._unwanted_s.items() if now_s - since_s >= self._drain_s]

    def _forget_unwanted(self, wanted: Collection[str]) -> None:
        """Tell everything anew now and then, and at once what is wanted again: listeners forget unwanted servers."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._retold_s >= RETELL_S:
            self._retold_s = now_s
            self._told.clear()
        for server_id in [server_id for server_id in self._told if server_id not in wanted]:
            del self._told[server_id]

    async def _start(self, one: Wanted) -> None:
        if one.server_id not in self._places:
            log.info("starting model server", server=one.server_id)
        spec = pb.ServerSpec(
            server_id=one.server_id,
            model=one.model,
            version=version_from(one.version.number),
            artifact=Artifact(
                uri=one.version.uri,
                digest=one.version.digest,
                size_bytes=one.version.size_bytes,
                format=one.version.format,
            ),
            runtime=self._runtime,
            load_timeout_s=self._load_timeout_s,
            restart=True,
        )
        try:
            await self._stub.StartServer(pb.StartServerRequest(spec=spec), timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() not in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}:
                raise
            told = (error.details() or error.code().name).partition("\nhint: ")[0]
            seen = Seen(model=one.model, number=one.version.number, endpoint="", ready=False)
            if reason_of(error) == HOST_FULL:
                self._places.refused(one.server_id)
                self._say(replace(seen, waiting=told))
            else:
                self._say(replace(seen, failure=f"the model host refused: {told}"))
        else:
            self._places.started(one.server_id)

    async def _look(self, one: Wanted, server: pb.Server) -> None:
        failed = server.state == pb.SERVER_STATE_FAILED
        failure = f"{server.reason.code}: {server.reason.message}" if failed else ""
        self._say(
            Seen(
                model=one.model,
                number=number_from(server.spec.version),
                endpoint=server.endpoint,
                ready=server.state == pb.SERVER_STATE_READY,
                failure=failure,
            )
        )
        now_s = asyncio.get_running_loop().time()
        if failed and now_s - self._retried_s.get(one.server_id, now_s - RETRY_FAILED_S) >= RETRY_FAILED_S:
            # Wanted all the same (stable, or a fallback): a fresh start may find what was missing.
            self._retried_s[one.server_id] = now_s
            await self._stop(one.server_id, forget=False)

    async def _stop(self, server_id: str, *, forget: bool = True) -> None:
        log.info("stopping model server", server=server_id)
        await self._stub.StopServer(pb.StopServerRequest(server_id=server_id), timeout=CALL_TIMEOUT_S)
        if forget:
            self._told.pop(server_id, None)

    def _say(self, seen: Seen) -> None:
        server_id = f"{seen.model}@{format_version(version_from(seen.number))}"
        if self._told.get(server_id) != seen:
            self._told[server_id] = seen
            self._tell(seen)
