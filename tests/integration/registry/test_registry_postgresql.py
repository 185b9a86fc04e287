"""The registry's database on the real PostgreSQL: transactions, backup, and the way from SQLite to it and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from tidegate.core.errors import FailedPrecondition
from tidegate.registry.backup.snapshot import load_snapshot, write_snapshot
from tidegate.registry.catalog.aliases import AliasMove, move_alias, read_alias
from tidegate.registry.catalog.outbox import Cause, add_event, next_sequence
from tidegate.registry.catalog.versions import insert_version, read_version
from tidegate.registry.numbering.versioning import Verdict
from tidegate.registry.store import Store
from tidegate.stack.ports import free_ports
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.values_pb2 import Version

NOBODY = 65534
MODEL = "flight-delay"


def as_server_user(*words: str) -> list[str]:
    """PostgreSQL refuses to run as root."""
    ids = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    return ["setpriv", *ids, *words] if os.getuid() == 0 else list(words)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """Run a server; return the URL of its first database."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("PostgreSQL is not installed on this machine")
    # Below the system's folder: a server that runs as nobody can't enter those of the test runner.
    folder = tempfile.mkdtemp(prefix="tidegate-postgresql-")
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    (port,) = free_ports(1)
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    data = f"{folder}/data"

    def call(*words: str) -> None:
        done = subprocess.run(
            as_server_user(*words), cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    call("initdb", "--pgdata", data, "--username", "tidegate", "--auth", "trust", "--no-sync")
    # Output to a file: the server keeps what it inherits.
    call("pg_ctl", "--pgdata", data, "--log", f"{folder}/log", "--wait", "--timeout", "100", "-o", options, "start")
    try:
        yield f"postgresql+psycopg://tidegate@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "--pgdata", data, "--mode", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def url(server, request) -> str:
    """Return the URL of a database of the test's own, in a time zone that is not UTC."""
    name = f"t{abs(hash(request.node.name))}"
    admin = Store(server)
    with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        connection.execute(text(f"ALTER DATABASE {name} SET timezone TO 'Asia/Kathmandu'"))
    admin.close()
    return server.rpartition("/")[0] + f"/{name}"


def register(connection, pipeline: int) -> int:
    event = ModelRegistered(model=MODEL, version=Version(major=1, pipeline=pipeline))
    event.artifact.digest = f"sha256:{pipeline}"
    event.decision.numbers_json = json.dumps({"verdict": "TIE"})
    event.sequence = next_sequence(connection, MODEL)
    row_id = insert_version(connection, event, verdict=Verdict.TIE, baseline_id=None)
    cause = Cause(id=f"c{pipeline}", correlation_id="c", actor="test")
    add_event(connection, event, cause=cause, event_id=f"e{pipeline}", sequence=event.sequence)
    return row_id


def filled(url: str) -> Store:
    store = Store(url)
    store.migrate()
    with store.writing() as connection:
        for pipeline in range(3):
            register(connection, pipeline)
        move = AliasMove(model=MODEL, alias="stable", version=Version(major=1, pipeline=2))
        move_alias(connection, move, cause=Cause(id="m", correlation_id="m", actor="test"))
    return store


@pytest.mark.parametrize("direction", ["postgresql to sqlite", "sqlite to postgresql", "postgresql to postgresql"])
def test_a_copy_goes_from_either_database_to_either(url, server, tmp_path, direction):
    sqlite = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    begin, _, end = direction.partition(" to ")
    source = filled(sqlite if begin == "sqlite" else url)
    copy = tmp_path / "copy.sqlite3"
    assert write_snapshot(source, copy).counts["versions"] == 3
    with source.reading() as connection:
        before = read_version(connection, MODEL, "stable")
        alias_before = read_alias(connection, MODEL, "stable")
    same = begin == end
    target = source if same else Store(sqlite if end == "sqlite" else url)
    if same:
        # What comes after the copy goes with an overwriting restore.
        with target.writing() as connection:
            register(connection, 3)
            with pytest.raises(FailedPrecondition, match="5 rows in outbox"):
                load_snapshot(copy, connection, overwrite=False)
            with pytest.raises(FailedPrecondition, match="5 events that were acknowledged"):
                load_snapshot(copy, connection, overwrite=True)
    with target.writing() as connection:
        load_snapshot(copy, connection, overwrite=same, discard_unpublished=same)
    with target.reading() as connection:
        after = read_version(connection, MODEL, "stable")
        assert (after.registered, after.create_time) == (before.registered, before.create_time)
        assert read_alias(connection, MODEL, "stable") == alias_before
    with target.writing() as connection:
        assert register(connection, 4) == 4
        assert next_sequence(connection, MODEL) == 6
    target.close()
    source.close()


def test_a_copy_sees_one_state_while_others_write(url, tmp_path):
    store = filled(url)
    other = Store(url)
    with store.snapshotting() as connection:
        count = text("SELECT count(*) FROM versions")
        assert connection.execute(count).scalar_one() == 3
        with other.writing() as writing:
            register(writing, 3)
        assert connection.execute(count).scalar_one() == 3
    assert write_snapshot(store, tmp_path / "copy.sqlite3").counts["versions"] == 4
    other.close()
    store.close()
