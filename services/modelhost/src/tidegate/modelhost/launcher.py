"""Starts the process of a model server: folder, socket, log, limits, sandbox, and an environment without secrets."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil

from tidegate.core.clock import utc_now
from tidegate.core.errors import FailedPrecondition
from tidegate.modelhost import processes
from tidegate.modelhost.lifecycle import Launched, Process, Server, Spec
from tidegate.modelhost.locales import Locales
from tidegate.modelhost.runtimes import ServingRuntime
from tidegate.modelhost.sandbox import Bubblewrap, Level, Limits, find_bubblewrap, interpreter_mounts, limited
from tidegate.modelhost.settings import Listen, ModelHostSettings, SandboxChoice

TAIL_BYTES_MAX: Final = 64 << 10
MODEL_NAME: Final = "model.onnx"
_ENVIRONMENT: Final = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",  # noqa: S108  (the sandbox's own)
    "LANG": "C.UTF-8",
    # glibc reserves 64 MiB of address space an arena; the limit counts address space.
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
}


@dataclass(frozen=True, slots=True)
class Running:
    """A started process; ``popen`` gives its exit code, which only a parent learns."""

    launched: Launched
    popen: subprocess.Popen[bytes]


class Launcher:
    """Starts processes by the settings of the host."""

    def __init__(self, settings: ModelHostSettings) -> None:
        self._settings = settings
        self._bubblewrap = _choose(settings)
        self._locales = Locales(settings.data_dir)

    @property
    def level(self) -> Level:
        """The isolation that servers get."""
        return Level.LIMITS if self._bubblewrap is None else Level.BUBBLEWRAP

    def require(self, min_sandbox: str) -> None:
        """Raise FailedPrecondition (SANDBOX_UNAVAILABLE) if ``min_sandbox`` is more than servers get here."""
        if min_sandbox == Level.BUBBLEWRAP and self.level is not Level.BUBBLEWRAP:
            raise FailedPrecondition(
                f"sandbox level {min_sandbox!r} is demanded, this host reaches {self.level.value!r}",
                code="SANDBOX_UNAVAILABLE",
                field="spec.min_sandbox",
                hint="install bubblewrap (bwrap), allow user namespaces, listen on unix sockets",
            )

    def launch(self, server: Server, *, runtime: ServingRuntime, cached: Path, locale: Path | None) -> Running:
        """Start the process of ``server`` and return it; raises OSError if the system says no.

        It gets the artifact ``cached`` in a folder of its own, and never learns of the cache; ``locale`` is what
        :meth:`locale_for` found for it.
        """
        spec = server.spec
        model_path = self._own_model(spec.server_id, cached)
        endpoint = self._prepare_endpoint(server)
        listen = endpoint if endpoint.startswith("unix:") else f"tcp:{endpoint}"
        command = runtime.command_line(model=spec.model, version=spec.version, model_path=model_path, listen=listen)
        environment = {**_ENVIRONMENT, processes.MARK_NAME: self.mark(spec.server_id)}
        if locale is not None:
            environment["LOCPATH"] = str(locale)
        if self._bubblewrap is not None:
            command = self._bubblewrap.wrap(
                command,
                readable=_readable(runtime, model_path, locale),
                writable=str(self._socket_folder(spec.server_id)),
                environment=environment,
                temporary_bytes=self._settings.temporary_bytes_max,
            )
        limits = Limits(
            memory_mib=spec.memory_mib_max,
            open_files=self._settings.open_files_max,
            nice=self._settings.nice,
        )
        with self._open_log(spec.server_id) as output:
            popen = subprocess.Popen(  # noqa: S603
                limited(command, limits=limits, level=self.level),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        process = Process(pid=popen.pid, create_time_s=psutil.Process(popen.pid).create_time())
        launched = Launched(
            time=utc_now(),
            process=process,
            endpoint=endpoint,
            readiness_path=runtime.readiness_path,
            sandbox=self.level.value,
            runtime_digest=runtime.digest(),
        )
        return Running(launched, popen)

    def locale_for(self, cached: Path) -> Path | None:
        """Return the folder of the locale that a model needs beyond the system's; it may take seconds to make it."""
        return self._locales.folder_for(cached)

    def mark(self, server_id: str) -> str:
        """Return the mark in the environment of the server's processes."""
        return processes.mark(self._settings.data_dir, server_id)

    def log_tail(self, spec: Spec, line_count: int) -> str:
        """Return the last lines of the server's log."""
        path = self._log_path(spec.server_id)
        if not path.is_file():
            return ""
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - TAIL_BYTES_MAX))
            text = stream.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-line_count:])

    def cut_log(self, spec: Spec) -> None:
        """Cut the head of a log that is too long; the server appends, so its next line follows what is left."""
        path = self._log_path(spec.server_id)
        if path.is_file() and path.stat().st_size > self._settings.log_bytes_max:
            tail = self.log_tail(spec, line_count=1000)
            path.write_text(f"[the model host cut the log here]\n{tail}\n")

    def clean(self, spec: Spec) -> None:
        """Remove the socket, the log, and the server's own name of its model."""
        shutil.rmtree(self._own_folder(spec.server_id), ignore_errors=True)
        shutil.rmtree(self._socket_folder(spec.server_id), ignore_errors=True)
        self._log_path(spec.server_id).unlink(missing_ok=True)

    def _prepare_endpoint(self, server: Server) -> str:
        if self._settings.listen is Listen.TCP:
            # A server that comes back keeps its port, because proxies know it.
            return server.endpoint or f"{self._settings.tcp_host}:{_free_port(self._settings.tcp_host)}"
        folder = self._socket_folder(server.spec.server_id)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        return f"unix:{folder / 's'}"

    def _own_model(self, server_id: str, cached: Path) -> Path:
        """Return the model, read-only, in a folder of the server's own: beside it lies nothing that is another's.

        In the sandbox it is mounted read-only; the folder itself stays the owner's, so that its data can be removed.
        """
        folder = self._own_folder(server_id)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        path = folder / MODEL_NAME
        try:
            os.link(cached, path)
        except OSError:
            # Another file system, or one without links.
            shutil.copyfile(cached, path)
            path.chmod(0o444)
        return path

    def _own_folder(self, server_id: str) -> Path:
        return self._settings.data_dir.absolute() / "models" / hashlib.sha256(server_id.encode()).hexdigest()

    def _socket_folder(self, server_id: str) -> Path:
        return self._settings.socket_dir.absolute() / hashlib.sha256(server_id.encode()).hexdigest()[:12]

    def _log_path(self, server_id: str) -> Path:
        return self._settings.data_dir / "logs" / f"{server_id}.log"

    def _open_log(self, server_id: str) -> IO[bytes]:
        path = self._log_path(server_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")


def _readable(runtime: ServingRuntime, model_path: Path, locale: Path | None) -> list[tuple[str, str]]:
    """Return what a server may read: its interpreter, runtime, model and locale; nothing of other servers."""
    own = [(str(path), str(path)) for path in (runtime.directory, model_path, locale) if path is not None]
    return [*interpreter_mounts(runtime.python), *own]


def _choose(settings: ModelHostSettings) -> Bubblewrap | None:
    if settings.sandbox is SandboxChoice.LIMITS or settings.listen is Listen.TCP:
        return None
    found = find_bubblewrap()
    if found is None and settings.sandbox is SandboxChoice.BUBBLEWRAP:
        raise FailedPrecondition(
            "sandbox is bubblewrap, but bwrap is absent or does not work here",
            code="SANDBOX_UNAVAILABLE",
            hint="install bubblewrap and allow user namespaces, or set sandbox to auto",
        )
    return found


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
