"""The stack under its supervisor, with its two stores for parts: up, down, and what happens when something is killed."""

from __future__ import annotations

import os
import signal
import socket
import time

import psutil
import pytest

from tidegate.core.errors import Conflict, FailedPrecondition, Unavailable
from tidegate.stack import leftovers, startup
from tidegate.stack.object_store import ensure_credentials
from tidegate.stack.ports import PortPlan, free_ports
from tidegate.stack.readiness import minio_client
from tidegate.stack.stack import Stack

STORES = ("kafka", "object-store")
DEADLINE_S = 60.0


@pytest.fixture
def stack(tmp_path, kafka_jars):
    made = Stack(tmp_path / "data", names=STORES)
    yield made
    made.down()
    assert leftovers.marked(made.layout) == []


@pytest.fixture(scope="module")
def running(tmp_path_factory, kafka_jars):
    """Run a stack for the tests that leave it running (the last of this file: it runs no longer than they do)."""
    made = Stack(tmp_path_factory.mktemp("running") / "data", names=STORES)
    made.up(port_base=0)
    yield made
    made.down()


def eventually(question):
    deadline = time.monotonic() + DEADLINE_S
    while not question():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def runs(process):
    # One that nobody has asked for its exit code yet is dead all the same.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def buckets(stack, ports):
    client = minio_client(f"127.0.0.1:{ports.object_store}", ensure_credentials(stack.layout.credentials))
    return {bucket.name for bucket in client.list_buckets()}


def test_down_leaves_nothing_running_and_up_finds_everything_again(stack):
    first = stack.up(port_base=0)
    assert stack.status().state == "running"
    client = minio_client(f"127.0.0.1:{first.ports.object_store}", ensure_credentials(stack.layout.credentials))
    client.make_bucket(bucket_name="mine")
    processes = [psutil.Process(pid) for pid in first.pids.values()]
    assert stack.down()
    assert not any(runs(process) for process in processes)
    assert not list(stack.layout.sockets.glob("**/*.sock"))
    assert stack.status().state == "stopped"
    assert not stack.down()

    again = stack.up()
    assert again.ports == first.ports
    assert buckets(stack, again.ports) == {"mine", "tidegate-artifacts", "tidegate-uploads"}


@pytest.mark.parametrize("then", ["down", "up"])
def test_stack_whose_supervisor_was_killed_can_be_ended_and_started(stack, then):
    first = stack.up(port_base=0)
    os.kill(first.pids["supervisord"], signal.SIGKILL)
    eventually(lambda: stack.status().state == "degraded")
    orphans = [psutil.Process(first.pids[name]) for name in STORES]
    if then == "down":
        assert stack.down()
    else:
        assert set(stack.up().pids.values()).isdisjoint(first.pids.values())
    assert not any(runs(process) for process in orphans)


def test_taken_port_is_named_and_nothing_is_left(stack):
    with socket.socket() as other:
        # A run of ten ports of which nobody has the first nine.
        while True:
            (base,) = free_ports(1)
            if base < 65000 and not PortPlan.from_base(base).taken():
                break
        other.bind(("127.0.0.1", base + 3))
        other.listen(1)
        with pytest.raises(FailedPrecondition, match=f"port {base + 3}, wanted by gateway, is taken") as raised:
            stack.up(port_base=base)
    assert raised.value.code == "PORT_TAKEN"
    assert f"(process {os.getpid()})" in str(raised.value)
    assert leftovers.marked(stack.layout) == []


def test_part_that_never_comes_up_is_named_and_the_rest_is_ended(stack, monkeypatch):
    monkeypatch.setattr(startup, "STARTS_MAX", 2)
    broken = stack.layout.part("kafka") / "log"
    broken.mkdir(parents=True)
    (broken / "meta.properties").write_text("version=99\n")
    with pytest.raises(Unavailable, match="kafka ends again and again") as raised:
        stack.up(port_base=0)
    assert "the end of its log:" in str(raised.value)
    assert str(stack.layout.log("kafka")) in raised.value.hint
    assert leftovers.marked(stack.layout) == []


def test_two_commands_at_once_are_refused(stack):
    stack.layout.make()
    with stack.locked(), pytest.raises(Conflict, match="being started or stopped") as raised:
        Stack(stack.layout.root).down()
    assert raised.value.code == "STACK_BUSY"


def pids(stack):
    return {part.name: part.pid for part in stack.status().parts}


def test_up_of_a_running_stack_changes_nothing_and_other_ports_are_refused(running):
    before = pids(running)
    assert running.up().pids.items() >= before.items()
    assert pids(running) == before
    with pytest.raises(FailedPrecondition, match="runs already with --port-base 0, not 7400") as raised:
        running.up(port_base=7400)
    assert raised.value.code == "STACK_RUNNING"


def test_killed_part_is_started_again_by_the_supervisor(running):
    before = pids(running)
    os.kill(before["object-store"], signal.SIGKILL)
    eventually(lambda: running.status().state == "running" and pids(running)["object-store"] != before["object-store"])
    assert pids(running)["kafka"] == before["kafka"]
