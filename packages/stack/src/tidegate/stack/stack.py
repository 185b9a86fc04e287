"""The embedded stack: up, down, and how it is."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tidegate.core.clock import utc_now
from tidegate.core.errors import Conflict, FailedPrecondition
from tidegate.stack import leftovers, record
from tidegate.stack.gateway import TOKEN_VARIABLE
from tidegate.stack.layout import Layout, runtimes_dir
from tidegate.stack.machine import check_machine
from tidegate.stack.maven import cache_dir, class_path, fetch_jars, read_lock, repository_url
from tidegate.stack.object_store import ensure_credentials
from tidegate.stack.parts import NAMES, parts, programs
from tidegate.stack.ports import DEFAULT_PORT_BASE, PortPlan, check_free
from tidegate.stack.record import Record
from tidegate.stack.release import this_release
from tidegate.stack.reporter import Reporter, Silent
from tidegate.stack.runtimes import ensure_runtimes
from tidegate.stack.services import Site
from tidegate.stack.shutdown import end_leftovers, stop_everything
from tidegate.stack.startup import start_parts
from tidegate.stack.supervisor import Supervisor
from tidegate.stack.tokens import Tokens, ensure_tokens
from tidegate.stack.upgrade import Upgrade, contents_of, note_contents, outdated_services, running_scripts, settings_of


@dataclass(frozen=True, kw_only=True, slots=True)
class PartStatus:
    """How a part is: ``state`` is the supervisor's word in lower case, ``ready`` whether it answers.

    ``metrics_port`` is where it serves Prometheus metrics, 0 = nowhere.
    """

    name: str
    state: str
    ready: bool
    pid: int
    port: int
    metrics_port: int
    up_s: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """How the stack is: ``running`` (all parts ready), ``degraded`` (not all), or ``stopped``."""

    state: str
    parts: tuple[PartStatus, ...] = ()


class Stack:
    """The stack of one data directory; ``names`` are the parts that it has (default: all)."""

    def __init__(self, directory: Path, *, reporter: Reporter | None = None, names: Sequence[str] = NAMES) -> None:
        self.layout = Layout.of(directory)
        self._names = tuple(names)
        self._reporter = reporter or Silent()
        self.supervisor = Supervisor(self.layout)

    def up(self, *, port_base: int | None = None, insecure: bool = False) -> Record:
        """Have every part run and return when all are ready; nothing happens to parts that are.

        Services of a stack that another release started are replaced, one at a time (:mod:`tidegate.stack.upgrade`).

        ``port_base``: None = as last time (at first 7400), 0 = ports that are free (the same as last time if they
        still are). ``insecure``: the services ask nobody who they are, until the next start. If a part does not come
        up, all that was started is stopped again; the logs stay.

        Raises:
            TidegateError: With a hint what to do.

        """
        check_machine()
        self.layout.make()
        with self.locked():
            if self.supervisor.is_alive():
                return self._complete(port_base)
            if end_leftovers(self.layout):
                self._reporter.say("ended what an earlier stack had left behind")
            leftovers.remove_sockets(self.layout)
            self.layout.make()
            plan = self._choose_ports(port_base)
            try:
                self._start_supervisor(plan, insecure=insecure)
                return self._start_parts(plan)
            except BaseException:
                self._stop(plan)
                raise

    def down(self) -> bool:
        """Stop every part and every model server, also after the supervisor was killed; return whether anything ran."""
        if not self.layout.root.is_dir():
            return False
        with self.locked():
            return self._stop(record.load(self.layout))

    def status(self) -> Status:
        """Return how every part is."""
        found = record.load(self.layout)
        if found is None or not self.supervisor.is_alive():
            return Status(state="degraded" if leftovers.marked(self.layout) else "stopped")
        states = self.supervisor.states()
        metrics = found.ports.metrics()
        looked_at = parts(found.ports, ensure_credentials(self.layout.credentials))
        statuses = tuple(
            PartStatus(
                name=name,
                state=states[name].state.lower(),
                ready=states[name].state == "RUNNING" and looked_at[name].is_ready(),
                pid=states[name].pid,
                port=looked_at[name].port,
                metrics_port=metrics.get(name, 0),
                up_s=_up_s(states[name].pid),
                memory_bytes=_memory_bytes(states[name].pid),
            )
            for name in NAMES
            if name in states
        )
        return Status(state="running" if all(part.ready for part in statuses) else "degraded", parts=statuses)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from starting or stopping parts meanwhile.

        Raises:
            Conflict: Another command does (code STACK_BUSY).

        """
        with self.layout.lock.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    f"the stack in {self.layout.root} is being started or stopped by another command",
                    code="STACK_BUSY",
                    hint="wait for that command to end",
                ) from None
            yield

    def _choose_ports(self, port_base: int | None) -> Record:
        earlier = record.load(self.layout)
        if port_base is None:
            port_base = earlier.port_base if earlier else DEFAULT_PORT_BASE
        if port_base == 0:
            same = earlier.ports if earlier and earlier.port_base == 0 and not earlier.ports.taken() else None
            return Record(port_base=0, ports=same or PortPlan.free())
        plan = Record(port_base=port_base, ports=PortPlan.from_base(port_base))
        check_free(plan.ports)
        return plan

    def _start_supervisor(self, plan: Record, *, insecure: bool) -> None:
        jars, runtimes = self._jars(), self._runtimes()
        self._reporter.say("starting the event bus, the object store and the gateway")
        site = self._site(plan, runtimes=runtimes, insecure=insecure)
        wanted = [each for each in programs(site, class_path=class_path(jars)) if each.name in self._names]
        self.supervisor.start(wanted)
        (self.layout.run / "contents.json").unlink(missing_ok=True)
        note_contents(self.layout, contents_of(self.layout, running_scripts(self.layout)))
        record.save(self.layout, Record(port_base=plan.port_base, ports=plan.ports, running=True))

    def _complete(self, port_base: int | None) -> Record:
        """See that each part of a stack with a living supervisor runs."""
        plan = record.load(self.layout)
        if plan is None:
            raise FailedPrecondition(
                f"a stack runs in {self.layout.root}, but its stack.json is gone",
                code="RECORD_MISSING",
                hint="run `tidegate down` with the same --dir, then `tidegate up`",
            )
        if port_base is not None and port_base != plan.port_base:
            raise FailedPrecondition(
                f"the stack in {self.layout.root} runs already with --port-base {plan.port_base}, not {port_base}",
                code="STACK_RUNNING",
                hint="run `tidegate down` first, or choose another --dir",
            )
        if outdated_services(running_scripts(self.layout)):
            return self._upgrade(plan)
        if self.status().state == "running":
            self._reporter.say("the stack runs already")
            return plan
        self._reporter.say("the stack runs in part; starting the rest")
        return self._start_parts(plan)

    def _upgrade(self, plan: Record) -> Record:
        """Replace the services that an older release started."""
        self._reporter.say(f"the stack runs another release; upgrading it to {this_release()}")
        plan = replace(plan, ports=plan.ports.settled())
        scripts = running_scripts(self.layout)
        contents = contents_of(self.layout, scripts)
        note_contents(self.layout, contents)
        settings = settings_of(scripts, os.environ)
        # Its own settings last as long as it runs; a gateway that goes on as it is may know of no tokens.
        site = self._site(
            plan,
            runtimes=self._runtimes(),
            insecure=settings_of(scripts, {}).get("TIDEGATE_INSECURE") == "true",
            admit_old_gateways=TOKEN_VARIABLE not in scripts.get("gateway", ""),
        )
        wanted = programs(site, class_path=class_path(self._jars()), caller=settings)
        upgrade = Upgrade(
            self.supervisor, self.layout, ports=plan.ports, credentials=site.credentials, reporter=self._reporter
        )
        upgrade.run(wanted, scripts=scripts, contents=contents)
        return self._start_parts(plan)

    def _site(self, plan: Record, *, runtimes: Path, insecure: bool = False, admit_old_gateways: bool = False) -> Site:
        tokens = Tokens.of(self.layout)
        ensure_tokens(tokens)
        if insecure:
            self._reporter.say("INSECURE: the services ask nobody who they are; whoever reaches a port may do anything")
        elif admit_old_gateways:
            self._reporter.say("the gateway knows of no tokens, and is believed without one until its next start")
        return Site(
            layout=self.layout,
            ports=plan.ports,
            credentials=ensure_credentials(self.layout.credentials),
            runtimes_dir=runtimes,
            tokens=tokens,
            insecure=insecure,
            admit_old_gateways=admit_old_gateways,
        )

    def _jars(self) -> tuple[Path, ...]:
        tell = self._reporter
        return fetch_jars(
            read_lock(), cache=cache_dir(), url=repository_url(), announce=tell.say, progress=tell.progress
        )

    def _runtimes(self) -> Path:
        runtimes = runtimes_dir()
        if "modelhost" in self._names:
            ensure_runtimes(runtimes, announce=self._reporter.say)
        return runtimes

    def _start_parts(self, plan: Record) -> Record:
        start_parts(
            self.supervisor,
            self.layout,
            names=tuple(self.supervisor.states()),
            ports=plan.ports,
            credentials=ensure_credentials(self.layout.credentials),
            reporter=self._reporter,
        )
        pids = {name: state.pid for name, state in self.supervisor.states().items()}
        pids["supervisord"] = self.supervisor.pid()
        done = Record(port_base=plan.port_base, ports=plan.ports, running=True, pids=pids)
        record.save(self.layout, done)
        return done

    def _stop(self, plan: Record | None) -> bool:
        ran = stop_everything(self.supervisor, self.layout, plan.ports if plan else None)
        if plan:
            record.save(self.layout, Record(port_base=plan.port_base, ports=plan.ports))
        return ran


def _up_s(pid: int) -> float:
    try:
        return max(0.0, utc_now().timestamp() - psutil.Process(pid).create_time()) if pid else 0.0
    except psutil.Error:
        return 0.0


def _memory_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0
