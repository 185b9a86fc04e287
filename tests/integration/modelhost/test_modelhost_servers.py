# ruff: noqa: ASYNC240  (short calls of the operating system)
"""Start, watch and stop real model servers."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import grpc
import psutil
import pytest

from tidegate.modelhost import processes
from tidegate.modelhost.locales import is_installed
from tidegate.modelhost.sandbox import find_bubblewrap
from tidegate.v1 import modelhost_service_pb2 as pb

FAILED, READY = pb.SERVER_STATE_FAILED, pb.SERVER_STATE_READY
needs_bubblewrap = pytest.mark.skipif(find_bubblewrap() is None, reason="bubblewrap does not work here")
LEVELS = ["limits", pytest.param("bubblewrap", marks=needs_bubblewrap)]


@pytest.mark.parametrize("level", LEVELS)
async def test_a_server_starts_answers_and_is_gone_after_its_stop(host, make_spec, infer, level):
    await host.start(sandbox=level)
    spec = await make_spec(min_sandbox=level, restart=True, memory_mib_max=1024)
    first = await host.ask(spec)
    assert first.state == pb.SERVER_STATE_STARTING
    server = await host.reaches("twice@1.0.0", READY)
    assert (await infer(server.endpoint, [1.5, 2])).json()["outputs"][0]["data"] == [3.0, 4.0]
    assert (server.sandbox, server.restarts) == (level, 0)
    assert server.load_time_ms > 0
    assert server.peak_memory_bytes > 50e6
    assert server.runtime_digest.startswith("sha256:")
    assert "loaded twice@1.0.0" in await host.text("twice@1.0.0")
    # Asking again changes nothing.
    assert (await host.ask(spec)).pid == server.pid

    await host.stop("twice@1.0.0")
    assert host.alive() == set()
    assert not _runs(server.pid)
    assert not Path(server.endpoint.removeprefix("unix:")).exists()
    assert await host.get("twice@1.0.0") is None
    await host.stop("twice@1.0.0")


async def test_a_server_listens_on_a_port_where_the_host_says_so(host, make_spec, infer):
    await host.start(listen="tcp", tcp_host="127.0.0.1")
    await host.ask(await make_spec())
    server = await host.reaches("twice@1.0.0", READY)
    assert server.endpoint.startswith("127.0.0.1:")
    assert (await infer(server.endpoint, [1, 2])).status_code == 200


async def test_other_bytes_than_the_digest_says_are_never_loaded(host, make_spec):
    await host.start()
    await host.ask(await make_spec(digest="sha256:" + "1" * 64))
    server = await host.reaches("twice@1.0.0", FAILED)
    assert server.reason.code == "ARTIFACT_DIGEST_MISMATCH"
    assert host.alive() == set()
    assert not [*(host.data_dir / "artifacts" / "sha256").iterdir()]


async def test_bytes_that_are_no_model_fail_with_the_servers_own_words(host, make_spec):
    await host.start()
    await host.ask(await make_spec(content=b"this is no model", restart=True))
    server = await host.reaches("twice@1.0.0", FAILED)
    assert (server.reason.code, server.exit_code) == ("SERVER_DIED", 1)
    assert "Protobuf parsing failed" in server.reason.message
    assert "Protobuf parsing failed" in await host.text("twice@1.0.0")
    # It stays to be read until it is stopped.
    assert (await host.ask(await make_spec(content=b"this is no model", restart=True))).state == FAILED


@pytest.mark.parametrize("level", LEVELS)
async def test_a_server_that_hangs_while_it_loads_is_killed_at_its_time(host, make_spec, level):
    await host.start(sandbox=level)
    await host.ask(await make_spec(runtime="sleeper", load_timeout_s=1.0))
    server = await host.reaches("twice@1.0.0", FAILED)
    assert server.reason.code == "LOAD_TIMEOUT"
    assert "sleeping" in server.reason.message
    # The verdict is told at once, then its processes are ended.
    await host.until(lambda: _is_all_gone(host))


@pytest.mark.parametrize("level", LEVELS)
async def test_a_killed_server_comes_back_at_the_same_endpoint(host, make_spec, infer, level):
    await host.start(sandbox=level)
    await host.ask(await make_spec(restart=True))
    before = await host.reaches("twice@1.0.0", READY)
    os.kill(before.pid, signal.SIGKILL)
    after = await host.reaches("twice@1.0.0", READY, restarts=1)
    assert after.pid != before.pid
    assert after.endpoint == before.endpoint
    assert (await infer(after.endpoint, [1, 2])).status_code == 200
    # The old one is gone with all that belonged to it.
    programs = [line for line in _command_lines(host.data_dir) if line[-1].startswith("unix:") and "python" in line[0]]
    assert len(programs) == 1


async def test_a_killed_server_of_a_validation_has_failed_with_its_signal(host, make_spec):
    await host.start(sandbox="limits")
    await host.ask(await make_spec(restart=False))
    server = await host.reaches("twice@1.0.0", READY)
    os.kill(server.pid, signal.SIGKILL)
    server = await host.reaches("twice@1.0.0", FAILED)
    assert (server.reason.code, server.exit_code) == ("SERVER_DIED", -9)


@pytest.mark.parametrize("level", LEVELS)
async def test_a_server_that_ignores_sigterm_and_left_its_session_is_gone_after_its_stop(host, make_spec, level):
    await host.start(sandbox=level, stop_grace_s="0.3")
    await host.ask(await make_spec(runtime="stubborn"))

    async def is_deaf() -> bool:
        return "deaf" in await host.text("twice@1.0.0")

    await host.until(is_deaf)
    pids = [process.pid for process in psutil.process_iter() if _is_of(process, host.data_dir)]
    assert len(pids) >= 2
    await host.stop("twice@1.0.0")
    assert host.alive() == set()
    assert not [pid for pid in pids if _runs(pid)]


async def test_what_the_host_cannot_do_is_refused_with_the_reason(host, make_spec):
    await host.start(sandbox="limits", servers_max="1")
    await host.ask(await make_spec(runtime="sleeper"))
    cases = {
        "SERVER_DIFFERS": await make_spec(runtime="sleeper", memory_mib_max=512),
        "SERVER_LIMIT_REACHED": await make_spec("other", runtime="sleeper"),
        "SANDBOX_UNAVAILABLE": await make_spec("other", runtime="sleeper", min_sandbox="bubblewrap"),
    }
    for code, spec in cases.items():
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await host.ask(spec)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert code.encode() in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await host.text("unknown")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_an_absent_object_store_fails_the_start_after_its_time(host, make_spec):
    spec = await make_spec(load_timeout_s=1.0)
    host.environment["TIDEGATE_S3_ENDPOINT"] = "127.0.0.1:1"
    await host.start()
    await host.ask(spec)
    server = await host.reaches("twice@1.0.0", FAILED)
    assert server.reason.code == "OBJECT_STORE_UNAVAILABLE"


@pytest.mark.parametrize("level", LEVELS)
async def test_a_text_model_loads_whether_or_not_the_system_has_its_locale(host, make_spec, models, level):
    if not is_installed() and not Path("/usr/share/i18n/locales/en_US").is_file():
        pytest.skip("neither the locale en_US.UTF-8 nor its source is here: apt-get install locales")
    await host.start(sandbox=level)
    await host.ask(await make_spec(content=models.lower, min_sandbox=level, memory_mib_max=1024))
    await host.reaches("twice@1.0.0", READY)


async def test_a_model_that_does_not_load_is_told_by_its_cause_first_and_without_a_trace(host, make_spec):
    await host.start(sandbox="limits")
    await host.ask(await make_spec(content=b"no model", memory_mib_max=1024))
    server = await host.reaches("twice@1.0.0", FAILED)
    assert server.reason.message.startswith("the model does not load: InvalidProtobuf")
    assert (server.reason.message.count("Protobuf parsing failed"), "Traceback" in server.reason.message) == (1, False)


@needs_bubblewrap
async def test_a_sandboxed_server_reaches_no_secret_no_network_and_no_other_process(host, make_spec, tmp_path):
    (tmp_path / "secret").write_text("s3 key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lines = await _spy(host, make_spec, "bubblewrap", port=listener.getsockname()[1])
    for name in ("secret", "passwd", "write-model", "write-usr", "write-root", "network"):
        assert lines[name].startswith("blocked"), (name, lines[name])
    for name in ("read-model", "write-tmp"):
        assert lines[name].startswith("REACHED"), (name, lines[name])
    assert int(lines["temporary"]) == 64 << 20
    bubblewrap = find_bubblewrap()
    assert bubblewrap is not None
    assert lines["namespace"].startswith("blocked" if bubblewrap.can_disable_userns else "")
    # Bubblewrap's first process and the spy.
    assert int(lines["processes"]) == 2
    _has_limits_and_no_credentials(lines)


async def test_a_limited_server_has_no_credentials_and_its_limits(host, make_spec):
    _has_limits_and_no_credentials(await _spy(host, make_spec, "limits", port=1))


def _has_limits_and_no_credentials(lines: dict[str, str]) -> None:
    assert lines["beside-the-model"] == "['model.onnx']"
    assert "S3" not in lines["environment"]
    assert "PATH" in lines["environment"]
    assert (int(lines["memory"]), int(lines["files"])) == (512 << 20, 1024)


async def _spy(host, make_spec, level: str, *, port: int) -> dict[str, str]:
    script = Path(host.environment["TIDEGATE_MODELHOST_RUNTIMES_DIR"]) / "spy" / "runtime.yaml"
    script.write_text(script.read_text().replace('"0"]', f'"{port}"]'))
    await host.start(sandbox=level)
    await host.ask(await make_spec(runtime="spy", memory_mib_max=512))

    async def is_done() -> str:
        text = await host.text("twice@1.0.0")
        return text if text.endswith("done") else ""

    text = await host.until(is_done)
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


async def _is_all_gone(host) -> bool:
    return host.alive() == set()


def _runs(pid: int) -> bool:
    """Say whether a process runs; one that waits only for its adoptive parent to read its exit code does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_of(process: psutil.Process, data_dir: Path) -> bool:
    return processes._mark_of(process).startswith(f"{data_dir}|")


def _command_lines(data_dir: Path) -> list[list[str]]:
    found = [process for process in psutil.process_iter() if _is_of(process, data_dir)]
    return [process.cmdline() for process in found if process.is_running()]
