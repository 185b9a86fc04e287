"""What is remembered between commands, and where."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tidegate.client.settings import load_settings
from tidegate.core.errors import FailedPrecondition, InvalidInput
from tidegate.stack import record
from tidegate.stack.layout import Layout, runtimes_dir
from tidegate.stack.machine import check_machine
from tidegate.stack.object_store import ensure_credentials
from tidegate.stack.ports import PortPlan
from tidegate.stack.record import Record

RECORD = Record(port_base=0, ports=PortPlan.from_base(17400), running=True, pids={"kafka": 12})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_record_comes_back_as_it_was_saved(tmp_path):
    layout = Layout.of(tmp_path)
    record.save(layout, RECORD)
    assert record.load(layout) == RECORD


def test_no_record_means_never_started(tmp_path):
    assert record.load(Layout.of(tmp_path)) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"port_base": 0, "ports": {"kafka": 1}, "running": true, "pids": {}}']
)
def test_damaged_record_is_named_with_a_hint(tmp_path, text):
    layout = Layout.of(tmp_path)
    layout.record.write_text(text)
    with pytest.raises(InvalidInput, match=r"stack\.json is damaged") as raised:
        record.load(layout)
    assert raised.value.code == "RECORD_UNREADABLE"


def test_clients_find_everything_in_the_record(tmp_path):
    layout = Layout.of(tmp_path)
    keys = ensure_credentials(layout.credentials)
    record.save(layout, RECORD)
    found = load_settings(environ={}, stack=tmp_path)
    assert found.kafka.bootstrap == "127.0.0.1:17400"
    assert found.object_store.endpoint == "127.0.0.1:17402"
    assert found.object_store.access_key.get_secret_value() == keys.access_key
    assert found.object_store.secret_key.get_secret_value() == keys.secret_key
    assert found.gateway_url == "http://127.0.0.1:17403"
    assert found.registry_address == "127.0.0.1:17404"
    assert found.deployer_address == "127.0.0.1:17405"


def test_keys_are_readable_by_their_owner_alone_and_never_shown(tmp_path):
    layout = Layout.of(tmp_path)
    keys = ensure_credentials(layout.credentials)
    record.save(layout, RECORD)
    assert mode(layout.credentials) == 0o600
    assert mode(layout.record) == 0o600
    assert keys.secret_key not in repr(keys)
    assert keys.secret_key not in json.dumps(record.document(layout, RECORD))


def test_keys_stay_the_same_and_differ_between_stacks(tmp_path):
    first = ensure_credentials(tmp_path / "one" / "credentials.json")
    assert ensure_credentials(tmp_path / "one" / "credentials.json") == first
    assert ensure_credentials(tmp_path / "two" / "credentials.json") != first


def test_damaged_keys_are_named(tmp_path):
    (tmp_path / "credentials.json").write_text("{}")
    with pytest.raises(InvalidInput, match="holds no credentials"):
        ensure_credentials(tmp_path / "credentials.json")


@pytest.mark.parametrize("depth", [1, 30])
def test_sockets_stay_short_however_long_the_data_directory_is(tmp_path, depth):
    layout = Layout.of(tmp_path.joinpath(*["deep"] * depth))
    assert len(os.fsencode(layout.supervisor_socket)) < 100
    assert len(os.fsencode(layout.model_sockets("modelhost-sandbox"))) < 80
    assert layout.model_sockets("modelhost") != layout.model_sockets("modelhost-sandbox")


def test_folders_are_private(tmp_path):
    layout = Layout.of(tmp_path / "data")
    layout.make()
    assert mode(layout.root) == 0o700
    assert mode(layout.sockets) == 0o700


def test_data_directory_that_is_a_file_is_named(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(FailedPrecondition, match="can't be made") as raised:
        Layout.of(tmp_path / "data").make()
    assert "--dir" in raised.value.hint


def test_missing_runtimes_are_named(monkeypatch):
    monkeypatch.setenv("TIDEGATE_RUNTIMES_DIR", "/nowhere/runtimes")
    with pytest.raises(FailedPrecondition, match="no folder of runtimes at /nowhere/runtimes"):
        runtimes_dir()


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ({"system": "darwin", "machine": "arm64"}, "this is darwin on arm64, expected Linux on x86_64"),
        ({"system": "linux", "machine": "aarch64"}, "this is linux on aarch64"),
        ({"system": "linux", "machine": "x86_64", "c_library": ""}, "the C library is unknown, expected glibc"),
    ],
)
def test_unsupported_machine_is_told_so_with_the_way_out(machine, said):
    with pytest.raises(FailedPrecondition, match=said) as raised:
        check_machine(**machine)
    assert raised.value.code == "PLATFORM_UNSUPPORTED"
    assert "docker-compose.yml" in raised.value.hint


def test_supported_machine_passes():
    check_machine(system="linux", machine="x86_64", c_library="glibc")
