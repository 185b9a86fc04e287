"""One task for each server: it feeds what happens to the pure core and carries its commands out."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

import structlog

from tidegate.core.clock import utc_now
from tidegate.core.errors import TidegateError, Unavailable
from tidegate.modelhost import probe, processes
from tidegate.modelhost.artifacts import ArtifactCache
from tidegate.modelhost.launcher import Launcher
from tidegate.modelhost.lifecycle import (
    Command,
    Decision,
    Event,
    HostStarted,
    LaunchFailed,
    Observed,
    Process,
    Reason,
    Server,
    State,
    StopAsked,
    decide,
    measured,
)
from tidegate.modelhost.metrics import LAUNCH_FAILURES, RESIDENT, STARTS, note_change
from tidegate.modelhost.runtimes import load_runtime

STARTING_POLL_S: Final = 0.05
READY_POLL_S: Final = 0.1
MEASURE_INTERVAL_S: Final = 5.0
INBOX_MAX: Final = 64
REASON_LINES: Final = 12
REASON_CHARACTERS: Final = 2000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What keepers need from the host."""

    launcher: Launcher
    artifacts: ArtifactCache
    runtimes_dir: Path
    stop_grace_s: float
    # Saves all servers; called after every change and before its commands are carried out.
    save: Callable[[], None]
    digests_in_use: Callable[[], set[str]]


class Keeper:
    """Keeps one server as its spec wants it, until it is forgotten."""

    def __init__(self, server: Server, ports: Ports) -> None:
        self.server = server
        self._ports = ports
        self._mark = ports.launcher.mark(server.spec.server_id)
        self._inbox: asyncio.Queue[Event] = asyncio.Queue(INBOX_MAX)
        self._popen: subprocess.Popen[bytes] | None = None
        self._launch: asyncio.Task[None] | None = None
        # Of which process the tree is, and when it was looked up (by the loop's clock).
        self._measured: Process | None = None
        self._measured_at = 0.0
        self._tree: tuple[int, ...] = ()

    async def run(self, first: Decision | None = None) -> None:
        """Run until the server is forgotten; ``first`` is a decision made before the keeper began."""
        is_kept = first is None or await self._carry_out(first)
        try:
            while is_kept:
                is_kept = await self._carry_out(decide(self.server, await self._next_event()))
        finally:
            await self._cancel_launch()

    async def adopt(self) -> None:
        """Run, for a server that an earlier host left."""
        alive = await asyncio.to_thread(processes.is_alive, self.server.process, self._mark)
        await self.run(decide(self.server, HostStarted(time=utc_now(), is_alive=alive)))

    async def ask_stop(self) -> None:
        """Have the server stopped; the task ends when it is gone."""
        await self._inbox.put(StopAsked(time=utc_now()))

    async def measure(self) -> None:
        """Read the memory of the server's processes now; who belongs to it is looked up every few seconds."""
        process, now = self.server.process, asyncio.get_running_loop().time()
        if process is None:
            return
        if process != self._measured or now > self._measured_at + MEASURE_INTERVAL_S:
            self._measured, self._measured_at = process, now
            self._tree = await asyncio.to_thread(processes.tree, process, self._mark)
        if self.server.process == process:
            self.server = measured(self.server, processes.peak_memory_bytes(self._tree))
            RESIDENT.labels(self.server.spec.server_id).set(processes.resident_bytes(self._tree))

    async def _next_event(self) -> Event:
        poll_s = STARTING_POLL_S if self.server.state is State.STARTING else READY_POLL_S
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._inbox.get(), poll_s)
        return await self._observe()

    async def _observe(self) -> Observed:
        server = self.server
        if server.process is None or server.state not in {State.STARTING, State.READY}:
            return Observed(time=utc_now(), is_alive=False, is_ready=False)
        if not self._is_alive(server.process):
            exit_code = self._exit_code()
            return Observed(
                time=utc_now(), is_alive=False, is_ready=False, exit_code=exit_code, log_tail=self._log_tail()
            )
        if server.state is State.READY:
            if asyncio.get_running_loop().time() > self._measured_at + MEASURE_INTERVAL_S:
                await self.measure()
                self._ports.launcher.cut_log(server.spec)
            return Observed(time=utc_now(), is_alive=True, is_ready=True)
        is_ready = await probe.is_ready(server.endpoint, server.readiness_path)
        if is_ready:
            await self.measure()
        return Observed(time=utc_now(), is_alive=True, is_ready=is_ready, log_tail="" if is_ready else self._log_tail())

    def _log_tail(self) -> str:
        return self._ports.launcher.log_tail(self.server.spec, REASON_LINES)[-REASON_CHARACTERS:]

    def _is_alive(self, process: Process) -> bool:
        if self._popen is not None and self._popen.pid == process.pid:
            return self._popen.poll() is None
        return processes.is_alive(process, self._mark)

    def _exit_code(self) -> int | None:
        """Return the exit code, a signal as a negative number; None for a process that another host started."""
        code = None if self._popen is None else self._popen.poll()
        # The shell around bubblewrap reports a signal as 128 + number.
        return 128 - code if code is not None and code > 128 else code

    async def _carry_out(self, decision: Decision) -> bool:
        """Save, then do; return False when the server is forgotten."""
        before, self.server = self.server, decision.server
        if self.server != before or decision.commands:
            note_change(before, self.server)
            self._ports.save()
        if self.server.state is not before.state:
            _log_state(self.server)
        for command in decision.commands:
            match command:
                case Command.LAUNCH:
                    self._launch = asyncio.create_task(self._try_launch())
                case Command.KILL:
                    await self._kill()
                case Command.FORGET:
                    RESIDENT.remove(self.server.spec.server_id)
                    self._ports.launcher.clean(self.server.spec)
                    return False
                case _:
                    assert_never(command)
        return True

    async def _try_launch(self) -> None:
        spec = self.server.spec
        try:
            runtime = load_runtime(self._ports.runtimes_dir, spec.runtime)
            cached = await self._ports.artifacts.fetch(
                uri=spec.artifact_uri, digest=spec.artifact_digest, in_use=self._ports.digests_in_use()
            )
            locale = await asyncio.to_thread(self._ports.launcher.locale_for, cached)
            running = self._ports.launcher.launch(self.server, runtime=runtime, cached=cached, locale=locale)
        except TidegateError as error:
            await self._refuse(error.code, str(error), is_transient=isinstance(error, Unavailable))
        except OSError as error:
            await self._refuse("LAUNCH_FAILED", f"the process could not be started: {error}", is_transient=True)
        else:
            STARTS.inc()
            self._popen = running.popen
            await self._inbox.put(running.launched)

    async def _refuse(self, code: str, message: str, *, is_transient: bool) -> None:
        LAUNCH_FAILURES.labels(code).inc()
        reason = Reason(code=code, message=message)
        await self._inbox.put(LaunchFailed(time=utc_now(), reason=reason, is_transient=is_transient))

    async def _kill(self) -> None:
        await self._cancel_launch()
        while True:
            try:
                await processes.end(self.server.process, self._mark, grace_s=self._ports.stop_grace_s)
                break
            except Unavailable as error:
                log.warning("server does not end", server_id=self.server.spec.server_id, error=str(error))
        if self._popen is not None:
            await asyncio.to_thread(self._popen.wait)  # it has ended; this takes its exit code from the system
            self._popen = None

    async def _cancel_launch(self) -> None:
        if self._launch is not None:
            self._launch.cancel()
            await asyncio.gather(self._launch, return_exceptions=True)
            self._launch = None


def _log_state(server: Server) -> None:
    spec, reason = server.spec, server.reason
    fields = {
        "server_id": spec.server_id,
        "runtime": spec.runtime,
        "sandbox": server.sandbox,
        "endpoint": server.endpoint,
    }
    if reason is None:
        log.info("server changed", state=server.state.value, **fields)
    else:
        log.warning("server changed", state=server.state.value, **fields, code=reason.code, reason=reason.message)
