from __future__ import annotations

from dataclasses import replace

import pytest

from tidegate.modelhost.launcher import Launcher
from tidegate.modelhost.lifecycle import Spec
from tidegate.modelhost.settings import ModelHostSettings, SandboxChoice

SPEC = Spec(
    server_id="churn@1.0.0",
    model="churn",
    version="1.0.0",
    artifact_uri="s3://bucket/key",
    artifact_digest="sha256:" + "0" * 64,
    artifact_format="onnx",
    runtime="kserve-onnx",
    load_timeout_s=30.0,
    memory_mib_max=1024,
    min_sandbox="limits",
    restart=True,
)
LOG_BYTES_MAX = 1 << 16


@pytest.fixture
def launcher(tmp_path):
    return Launcher(ModelHostSettings(data_dir=tmp_path, sandbox=SandboxChoice.LIMITS, log_bytes_max=LOG_BYTES_MAX))


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "logs" / "churn@1.0.0.log"
    path.parent.mkdir()
    return path


def test_the_tail_has_the_last_lines(launcher, log):
    log.write_bytes(b"one\ntwo\nthr\xffee\n")
    assert launcher.log_tail(SPEC, 2) == "two\nthr\ufffdee"


def test_a_server_that_wrote_nothing_has_an_empty_log(launcher):
    assert launcher.log_tail(SPEC, 10) == ""


def test_a_too_long_log_loses_its_head_and_goes_on(launcher, log):
    with log.open("ab") as writer:
        writer.write(b"".join(b"line %d\n" % number for number in range(20_000)))
        writer.flush()
        launcher.cut_log(SPEC)
        assert log.stat().st_size < LOG_BYTES_MAX
        writer.write(b"after\n")
    assert launcher.log_tail(SPEC, 2) == "line 19999\nafter"


def test_a_log_of_legal_length_is_left_alone(launcher, log):
    log.write_text("line\n" * 100)
    launcher.cut_log(SPEC)
    assert log.read_text() == "line\n" * 100


def test_a_clean_up_removes_only_the_servers_own_log(launcher, log):
    log.write_text("line\n")
    launcher.clean(replace(SPEC, server_id="other"))
    assert log.exists()
    launcher.clean(SPEC)
    assert not log.exists()
