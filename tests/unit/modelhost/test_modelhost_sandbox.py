from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tidegate.modelhost.sandbox import Bubblewrap, Level, Limits, interpreter_mounts, limited, system_mounts
from tidegate.modelhost.settings import Listen, ModelHostSettings, SandboxChoice

LIMITS = Limits(memory_mib=1024, open_files=256, nice=5)
BUBBLEWRAP = Bubblewrap(program="/usr/bin/bwrap", can_disable_userns=True)


def test_the_bubblewrap_command_is_the_golden_one():
    line = BUBBLEWRAP.wrap(
        ["python", "server.py"],
        readable=[("/opt/real", "/opt/link"), ("/data/model", "/data/model")],
        writable="/run/s/0a",
        environment={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        temporary_bytes=1024,
    )
    system = system_mounts(temporary_bytes=1024)
    text = " ".join(line).replace(" ".join(system), "SYSTEM")
    assert text == (
        "/usr/bin/bwrap --unshare-all --unshare-user --uid 65534 --gid 65534 --hostname sandbox --new-session "
        "--die-with-parent --cap-drop ALL --disable-userns SYSTEM "
        "--ro-bind /opt/real /opt/link --ro-bind /data/model /data/model --bind /run/s/0a /run/s/0a --remount-ro / "
        "--clearenv --setenv PATH /usr/bin:/bin --setenv LANG C.UTF-8 --chdir /tmp -- python server.py"
    )


def test_the_system_part_is_read_only_and_its_temporary_folder_bounded():
    line = system_mounts(temporary_bytes=1024)
    assert "--bind" not in line
    assert "--dev-bind" not in line
    assert line[-4:] == ["--size", "1024", "--tmpfs", "/tmp"]
    assert not {"/etc", "/root", "/home", "/var", "/"} & set(line)


def test_a_limited_command_replaces_its_shell():
    line = limited(["python", "server.py"], limits=LIMITS, level=Level.LIMITS)
    assert line[:2] == ["/bin/sh", "-c"]
    assert line[2].endswith('exec nice -n "$priority" "$@"')
    assert line[4:] == ["256", str(1024 * 1024), str((64 << 20) // 512), "5", "python", "server.py"]


def test_a_sandboxed_command_keeps_its_shell_since_bubblewrap_ends_with_its_parent():
    assert "exec" not in limited(["bwrap"], limits=LIMITS, level=Level.BUBBLEWRAP)[2]


def test_every_prefix_on_the_way_to_the_interpreter_is_mounted(tmp_path):
    base = tmp_path / "cpython-3.11.7"
    (base / "bin").mkdir(parents=True)
    (base / "bin" / "python3.11").touch()
    (tmp_path / "cpython-3.11").symlink_to(base.name)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.symlink_to(tmp_path / "cpython-3.11" / "bin" / "python3.11")
    mounts = interpreter_mounts(python)
    assert (str(tmp_path / "venv"), str(tmp_path / "venv")) in mounts
    assert (str(base), str(tmp_path / "cpython-3.11")) in mounts
    assert (str(base), str(base)) in mounts


def test_the_systems_own_interpreter_needs_no_mount():
    assert interpreter_mounts(Path("/usr/bin/python-that-is-absent")) == []


def test_a_socket_folder_that_makes_too_long_paths_is_refused():
    with pytest.raises(ValidationError, match="expected less than 100"):
        ModelHostSettings(socket_dir=Path("/" + "x" * 90))


def test_bubblewrap_has_no_network_so_tcp_is_refused_with_it():
    with pytest.raises(ValidationError, match="expected listen=unix"):
        ModelHostSettings(listen=Listen.TCP, sandbox=SandboxChoice.BUBBLEWRAP)
