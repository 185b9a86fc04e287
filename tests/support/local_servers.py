"""Servers that are installed on this machine, for where there are no containers: MinIO's binary, Debian's PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parts import postgres_answers, store_at

from tidegate.core.settings import ObjectStoreSettings
from tidegate.stack.child import running
from tidegate.stack.object_store import Credentials
from tidegate.stack.ports import free_ports
from tidegate.stack.program import Program
from tidegate.stack.readiness import object_store_ready

MINIO_VARIABLE = "TIDEGATE_MINIO"
INITDB_S = 120


def minio_binary() -> Path | None:
    """Return MinIO's server: what TIDEGATE_MINIO names, else ``minio`` on the PATH."""
    named = os.environ.get(MINIO_VARIABLE)
    found = named or shutil.which("minio")
    if named and not Path(named).is_file():
        raise FileNotFoundError(f"{MINIO_VARIABLE} is {named!r}, which is no file")
    return Path(found) if found else None


@contextmanager
def minio_server(binary: Path, folder: Path) -> Iterator[ObjectStoreSettings]:
    """Run ``binary`` with its data in ``folder``; yield where it is and its keys."""
    (port,) = free_ports(1)
    keys = Credentials(access_key="tidegate-test", secret_key="tidegate-test-secret")
    settings = store_at(port, keys)
    program = Program(
        name="minio",
        command=(str(binary), "server", "--quiet", "--address", settings.endpoint, str(folder / "data")),
        directory=folder,
        environment={
            "MINIO_ROOT_USER": keys.access_key,
            "MINIO_ROOT_PASSWORD": keys.secret_key,
            "MINIO_CI_CD": "1",  # its data lie on the root disk, which it refuses elsewhere
            "MINIO_UPDATE": "off",
        },
    )
    with running(program, log=folder / "minio.out", is_ready=lambda: object_store_ready(settings.endpoint, keys)):
        yield settings


def postgres_binaries() -> Path | None:
    """Return the folder of PostgreSQL's server programs, newest first; Debian keeps them off the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("postgres")
    candidates = [*folders, *([Path(on_path).resolve().parent] if on_path else [])]
    return next((folder for folder in candidates if (folder / "initdb").exists()), None)


@contextmanager
def postgres_server(binaries: Path) -> Iterator[str]:
    """Run a new PostgreSQL that keeps nothing; yield the URL of its first database."""
    (port,) = free_ports(1)
    become, owner = _somebody_else()
    # Not pytest's folder: it is closed to the user that PostgreSQL must run as when the tests run as root.
    with tempfile.TemporaryDirectory(prefix="tidegate-postgres-") as name:
        folder = Path(name)
        if owner is not None:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        data = folder / "data"
        initdb = [*become, binaries / "initdb", "--username", "postgres", "--auth", "trust", "--no-sync", "-D", data]
        subprocess.run(initdb, check=True, capture_output=True, timeout=INITDB_S, cwd=folder)
        options = ("-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}")
        program = Program(
            name="postgres",
            command=(*become, str(binaries / "postgres"), "-D", str(data), *options),
            directory=folder,
            # Its fast way of stopping would wait for nobody, but not for the log.
            stop_s=30.0,
        )
        url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        with (
            tempfile.TemporaryDirectory(prefix="tidegate-postgres-log-") as logs,
            running(program, log=Path(logs) / "postgres.out", is_ready=lambda: postgres_answers(url)),
        ):
            yield url


def _somebody_else() -> tuple[tuple[str, ...], pwd.struct_passwd | None]:
    """Return how to become a user that PostgreSQL accepts, and that user; nothing to do unless we are root."""
    if os.geteuid() != 0:
        return (), None
    names = [user.pw_name for user in pwd.getpwall()]
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    setpriv = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--")
    return setpriv, user
