"""What follows when something happens to a model server: the pure core of the model host.

``decide(server, event)`` has no clock and starts nothing: time is a field of every event, and processes are started and
ended by the shell, which carries the commands out. Every command may be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 10.0
# Ready for this long, a server is healthy again and its back-off begins anew.
STABLE_S: Final = 60.0
LOAD_TIMEOUT_DEFAULT_S: Final = 60.0
# Exit code of a process that SIGKILL ended.
CAUSE_CHARACTERS_MAX: Final = 1000
KILLED: Final = -9


class State(StrEnum):
    """State of a server; the names are those of the contract's ``ServerState``."""

    STARTING = "STARTING"
    READY = "READY"
    FAILED = "FAILED"
    STOPPING = "STOPPING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a server shall run, with every default filled in; equal specs mean the same server."""

    server_id: str
    model: str
    version: str
    artifact_uri: str
    artifact_digest: str
    artifact_format: str
    runtime: str
    load_timeout_s: float
    memory_mib_max: int
    min_sandbox: str
    restart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of the system: pids are used again, so the time of creation (epoch seconds) belongs to it."""

    pid: int
    create_time_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a server failed: a stable code and a sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server as the host knows it."""

    spec: Spec
    state: State
    asked_time: datetime
    endpoint: str = ""
    readiness_path: str = ""
    process: Process | None = None
    launch_time: datetime | None = None
    ready_time: datetime | None = None
    # When to launch again, while no process runs.
    resume_time: datetime | None = None
    reason: Reason | None = None
    exit_code: int | None = None
    load_time_ms: float = 0.0
    peak_memory_bytes: int = 0
    sandbox: str = ""
    restarts: int = 0
    failures_in_a_row: int = 0
    was_ready: bool = False
    runtime_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """The process was started."""

    time: datetime
    process: Process
    endpoint: str
    readiness_path: str
    sandbox: str
    runtime_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFailed:
    """There is no process: the artifact, the runtime or the system said no; transient ones are tried again."""

    time: datetime
    reason: Reason
    is_transient: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A look at the server; ``exit_code`` is None while it lives, and for a process that is not our child."""

    time: datetime
    is_alive: bool
    is_ready: bool
    exit_code: int | None = None
    log_tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked:
    """Somebody wants the server gone."""

    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStarted:
    """The host starts and finds the server in its state file."""

    time: datetime
    is_alive: bool


Event: TypeAlias = Launched | LaunchFailed | Observed | StopAsked | HostStarted


class Command(StrEnum):
    """What the shell does next; in this order, each idempotent."""

    LAUNCH = "LAUNCH"  # fetch the artifact, start the process, answer Launched or LaunchFailed
    KILL = "KILL"  # end every process of the server
    FORGET = "FORGET"  # remove the socket, the log and the record


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The server after the event, and what to do."""

    server: Server
    commands: tuple[Command, ...] = ()


def begin(spec: Spec, *, time: datetime) -> Decision:
    """Return the decision for a server that nobody asked for before."""
    return Decision(server=Server(spec=spec, state=State.STARTING, asked_time=time), commands=(Command.LAUNCH,))


def decide(server: Server, event: Event) -> Decision:
    """Return what follows when ``event`` reaches ``server``."""
    match event:
        case StopAsked():
            return _stop(server)
        case HostStarted():
            return _adopt(server, event)
        case Launched():
            return _launched(server, event)
        case LaunchFailed():
            return _launch_failed(server, event)
        case Observed():
            return _observed(server, event)
        case _:
            assert_never(event)


def backoff_s(failures_in_a_row: int) -> float:
    """Return the seconds until the next start: 0.1 after the first failure, then doubled, at most 10."""
    return float(min(BACKOFF_FIRST_S * 2 ** min(failures_in_a_row - 1, 16), BACKOFF_MAX_S))


def measured(server: Server, memory_bytes: int) -> Server:
    """Return ``server`` with a measurement of its memory: the peak of all its processes, one after the other."""
    return replace(server, peak_memory_bytes=max(server.peak_memory_bytes, memory_bytes))


def _stop(server: Server) -> Decision:
    return Decision(server=replace(server, state=State.STOPPING), commands=(Command.KILL, Command.FORGET))


def _adopt(server: Server, event: HostStarted) -> Decision:
    if server.state is State.STOPPING or not server.spec.restart:
        return _stop(server)
    if event.is_alive or server.state is State.FAILED:
        return Decision(server=server)
    if server.process is None:
        # The host died between asking and launching: KILL finds a process that it had no time to write down.
        again = replace(server, resume_time=None)
        return Decision(server=again, commands=(Command.KILL, Command.LAUNCH))
    return _ended(server, event.time, Reason(code="SERVER_DIED", message="it was gone when the model host started"))


def _launched(server: Server, event: Launched) -> Decision:
    launched = replace(
        server,
        process=event.process,
        endpoint=event.endpoint,
        readiness_path=event.readiness_path,
        sandbox=event.sandbox,
        runtime_digest=event.runtime_digest,
        launch_time=event.time,
        ready_time=None,
        resume_time=None,
        exit_code=None,
    )
    if server.state is State.STARTING:
        return Decision(server=launched)
    return _stop(launched)


def _launch_failed(server: Server, event: LaunchFailed) -> Decision:
    if server.state is not State.STARTING:
        return Decision(server=server)
    in_time = event.time < server.asked_time + timedelta(seconds=server.spec.load_timeout_s)
    if event.is_transient and (in_time or server.was_ready):
        return _later(replace(server, reason=event.reason), event.time)
    return Decision(server=replace(server, state=State.FAILED, reason=event.reason))


def _observed(server: Server, event: Observed) -> Decision:
    if server.state not in {State.STARTING, State.READY}:
        return Decision(server=server)
    if server.process is None:
        is_due = server.resume_time is not None and event.time >= server.resume_time
        again = replace(server, resume_time=None)
        return Decision(server=again, commands=(Command.LAUNCH,)) if is_due else Decision(server=server)
    if not event.is_alive:
        server = replace(server, exit_code=event.exit_code)
        return _ended(server, event.time, _death(server, event))
    if server.state is State.READY:
        is_stable = server.ready_time is None or event.time >= server.ready_time + timedelta(seconds=STABLE_S)
        return Decision(server=replace(server, failures_in_a_row=0) if is_stable else server)
    return _starting(server, event)


def _starting(server: Server, event: Observed) -> Decision:
    launch_time = server.launch_time or event.time
    if event.is_ready:
        ready = replace(
            server,
            state=State.READY,
            ready_time=event.time,
            reason=None,
            was_ready=True,
            load_time_ms=(event.time - launch_time) / timedelta(milliseconds=1),
        )
        return Decision(server=ready)
    if event.time < launch_time + timedelta(seconds=server.spec.load_timeout_s):
        return Decision(server=server)
    cause = cause_of(event.log_tail)
    told = f"; its log ends with: {cause}" if cause else ""
    message = f"it was not ready {server.spec.load_timeout_s:g} s after its start{told}"
    return _ended(server, event.time, Reason(code="LOAD_TIMEOUT", message=message))


def _death(server: Server, event: Observed) -> Reason:
    end = "an unknown exit code" if event.exit_code is None else f"exit code {event.exit_code}"
    when = "while it served" if server.state is State.READY else "before it was ready"
    cause, message = cause_of(event.log_tail), f"it ended {when} with {end}"
    # One that gave up tells why in its last line; one that was ended by another tells what it did before.
    gave_up = server.state is not State.READY and event.exit_code is not None and event.exit_code > 0
    if cause:
        message = f"{cause} ({message})" if gave_up else f"{message}; its log ends with: {cause}"
    return Reason(code="SERVER_DIED", message=message)


def cause_of(log_tail: str) -> str:
    """Return the last line of a log that says something, which is the cause also where a trace comes before it.

    The rest stays in the log, which whoever reports a failure quotes beside the reason, once.
    """
    lines = [line.strip() for line in log_tail.splitlines()]
    return next((line for line in reversed(lines) if line), "")[:CAUSE_CHARACTERS_MAX]


def _ended(server: Server, time: datetime, reason: Reason) -> Decision:
    """Return what follows an end: a server that was ready, or was killed while it loaded, comes back if it shall."""
    ended = replace(server, process=None, reason=reason)
    if server.spec.restart and (server.was_ready or _was_killed_in_time(server, time)):
        later = _later(replace(ended, restarts=server.restarts + 1), time)
        return replace(later, commands=(Command.KILL,))
    return Decision(server=replace(ended, state=State.FAILED), commands=(Command.KILL,))


def _was_killed_in_time(server: Server, time: datetime) -> bool:
    """Say whether somebody else ended it, and there is time left to load: that is no fault of the model."""
    return server.exit_code == KILLED and time < server.asked_time + timedelta(seconds=server.spec.load_timeout_s)


def _later(server: Server, time: datetime) -> Decision:
    failures = server.failures_in_a_row + 1
    resume_time = time + timedelta(seconds=backoff_s(failures))
    return Decision(
        server=replace(
            server, state=State.STARTING, failures_in_a_row=failures, resume_time=resume_time, ready_time=None
        )
    )
