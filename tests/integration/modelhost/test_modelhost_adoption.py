# ruff: noqa: ASYNC220, ASYNC221  (short calls of the operating system)
"""Model servers outlive their host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tidegate.modelhost import processes
from tidegate.modelhost.lifecycle import Process
from tidegate.modelhost.sandbox import find_bubblewrap
from tidegate.v1 import modelhost_service_pb2 as pb

READY = pb.SERVER_STATE_READY
LEVELS = [
    "limits",
    pytest.param(
        "bubblewrap", marks=pytest.mark.skipif(find_bubblewrap() is None, reason="bubblewrap does not work here")
    ),
]


@pytest.mark.parametrize("level", LEVELS)
async def test_a_killed_hosts_servers_go_on_and_the_next_host_adopts_them(host, make_spec, infer, level):
    await host.start(sandbox=level)
    await host.ask(await make_spec(restart=True))
    await host.ask(await make_spec("trial", restart=False))
    before = await host.reaches("twice@1.0.0", READY)
    await host.reaches("trial", READY)
    await host.end(signal.SIGKILL)
    assert (await infer(before.endpoint, [1, 2])).status_code == 200

    await host.start()
    after = await host.reaches("twice@1.0.0", READY)
    assert (after.pid, after.start_time, after.restarts) == (before.pid, before.start_time, 0)
    # Nobody asks for what a validation left: its validator starts anew.
    await host.until(lambda: _gone(host, "trial"))
    assert host.alive() == {"twice@1.0.0"}

    os.kill(after.pid, signal.SIGKILL)
    again = await host.reaches("twice@1.0.0", READY, restarts=1)
    assert (await infer(again.endpoint, [1, 2])).status_code == 200
    await host.stop("twice@1.0.0")
    assert host.alive() == set()


async def test_a_stopped_hosts_live_servers_go_on_and_those_of_validations_end(host, make_spec, infer):
    await host.start()
    await host.ask(await make_spec(restart=True))
    await host.ask(await make_spec("trial", restart=False))
    server = await host.reaches("twice@1.0.0", READY)
    await host.reaches("trial", READY)
    assert await host.end(signal.SIGTERM) == 0
    assert host.alive() == {"twice@1.0.0"}
    assert (await infer(server.endpoint, [1, 2])).status_code == 200


async def test_a_live_server_that_died_without_its_host_comes_back(host, make_spec, infer):
    await host.start()
    await host.ask(await make_spec(restart=True))
    before = await host.reaches("twice@1.0.0", READY)
    await host.end(signal.SIGKILL)
    os.kill(before.pid, signal.SIGKILL)
    await host.start()
    after = await host.reaches("twice@1.0.0", READY, restarts=1)
    assert (await infer(after.endpoint, [1, 2])).status_code == 200


async def test_a_server_that_the_killed_host_did_not_write_down_is_ended(host, make_spec):
    await host.start()
    await host.ask(await make_spec(runtime="sleeper"))

    async def is_alive() -> set[str]:
        return host.alive()

    await host.until(is_alive)
    await host.end(signal.SIGKILL)
    (host.data_dir / "servers.json").unlink()
    await host.start()
    assert host.alive() == set()


async def test_two_hosts_never_share_a_data_folder(host):
    await host.start()
    environment = {**os.environ, **host.environment}
    second = subprocess.run(
        [sys.executable, "-m", "tidegate.modelhost"], env=environment, capture_output=True, check=False
    )
    assert second.returncode == 1
    assert b"DATA_DIR_IN_USE" in second.stderr


async def test_a_stranger_with_a_servers_pid_is_never_killed():
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        for create_time_s in (0.0, _create_time_s(stranger.pid)):
            process = Process(pid=stranger.pid, create_time_s=create_time_s)
            assert not processes.is_alive(process, "/data|churn")
            await processes.end(process, "/data|churn", grace_s=0.1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def _create_time_s(pid: int) -> float:
    import psutil

    return float(psutil.Process(pid).create_time())


async def _gone(host, server_id: str) -> bool:
    return await host.get(server_id) is None
