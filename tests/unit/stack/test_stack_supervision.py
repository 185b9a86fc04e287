"""What the supervisor is told, whatever stands in paths and keys."""

from __future__ import annotations

import configparser
import shlex
import subprocess
from pathlib import Path

import pytest

from tidegate.stack.program import Program
from tidegate.stack.supervisor import configuration, script

ODD = ["plain", "with space", "quote'and\"quote", "50% %(here)s", "a ; b # c", "$HOME `id` \\n", "ünïcode"]


@pytest.mark.parametrize("text", ODD)
def test_script_hands_over_words_and_variables_unchanged(tmp_path, text):
    folder = tmp_path / text
    folder.mkdir()
    program = Program(
        name="kafka", command=("/usr/bin/env", "printf", "%s|", text), directory=folder, environment={"KEY": text}
    )
    path = tmp_path / "kafka.sh"
    path.write_text(script(program) + "")
    answer = subprocess.run(
        ["/bin/sh", str(path)], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert answer.stdout == f"{text}|"
    assert f"export KEY={shlex.quote(text)}" in path.read_text()


def test_configuration_holds_no_keys_and_only_relative_paths():
    program = Program(
        name="object-store",
        command=("/opt/x/juicefs", "gateway"),
        directory=Path("/data/object-store"),
        environment={"MINIO_ROOT_PASSWORD": "hidden"},
        stop_s=7,
    )
    text = configuration([program], socket_path=Path("/run/t/supervisor.sock"))
    assert "hidden" not in text
    assert "/data" not in text
    parsed = configparser.RawConfigParser()
    parsed.read_string(text)
    section = parsed["program:object-store"]
    assert section["command"] == "/bin/sh run/object-store.sh"
    assert section["autorestart"] == "true"
    assert section["stopwaitsecs"] == "7"
    assert int(section["stdout_logfile_maxbytes"]) > 0
    assert parsed["unix_http_server"]["file"] == "/run/t/supervisor.sock"
