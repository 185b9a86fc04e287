"""What an upgrade replaces: told by content, not by path, and with the settings that were there."""

from __future__ import annotations

import json

import pytest

from tidegate.stack import record
from tidegate.stack.layout import Layout
from tidegate.stack.ports import PortPlan
from tidegate.stack.program import Program
from tidegate.stack.release import RELEASE_VARIABLE, content_of, exports, release_of, this_release
from tidegate.stack.supervisor import script
from tidegate.stack.upgrade import contents_of, note_contents, outdated_services, running_scripts, settings_of


def gateway(folder, *, binary: bytes = b"envoy", config: str = "{}", level: str = "warning") -> str:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "envoy").write_bytes(binary)
    (folder / "bootstrap.json").write_text(config)
    return script(
        Program(
            name="gateway",
            command=(str(folder / "envoy"), "--config-path", str(folder / "bootstrap.json"), "--log-level", level),
            directory=folder,
        )
    )


def service(name: str, environment: dict[str, str], python: str = "/new/python") -> str:
    from pathlib import Path

    command = (python, "-m", f"tidegate.{name}")
    return script(Program(name=name, command=command, directory=Path("/"), environment=environment))


def test_the_same_binary_in_another_folder_is_the_same_program(tmp_path):
    same = content_of(gateway(tmp_path / "a"))
    assert content_of(gateway(tmp_path / "b")) == same
    assert content_of(gateway(tmp_path / "c", binary=b"another envoy")) != same
    assert content_of(gateway(tmp_path / "c", config="[]")) != same
    assert content_of(gateway(tmp_path / "c", level="info")) != same
    # The previous release's scripts take no arguments.
    assert content_of(gateway(tmp_path / "c").replace(' "$@"', "")) == same


def test_a_class_path_counts_by_its_jars(tmp_path):
    def java(folder: str, *jars: bytes, release: str = "25") -> str:
        home = tmp_path / folder
        (home / "bin").mkdir(parents=True, exist_ok=True)
        (home / "bin" / "java").write_bytes(b"launcher")
        (home / "release").write_text(release)
        paths = []
        for number, jar in enumerate(jars):
            path = home / f"{number}.jar"
            path.write_bytes(jar)
            paths.append(str(path))
        command = (str(home / "bin" / "java"), "-cp", ":".join(paths), "kafka.Kafka")
        return content_of(script(Program(name="kafka", command=command, directory=home)))

    assert java("a", b"x", b"y") == java("b", b"x", b"y")
    assert java("a", b"x", b"y") != java("b", b"y", b"x")
    assert java("a", b"x") != java("b", b"x", release="26")


@pytest.mark.parametrize("value", ["plain", "with 'quotes'", "two\nlines", "export A=b", "exec x", ""])
def test_variables_survive_the_way_through_a_script(value):
    found = exports(service("monitor", {"TIDEGATE_MONITOR_X": value}))
    assert found["TIDEGATE_MONITOR_X"] == value


def test_services_of_another_release_are_outdated_in_the_order_of_their_replacement():
    mine = {RELEASE_VARIABLE: this_release()}
    scripts = {
        "deployer": service("deployer", {}),
        "monitor": service("monitor", mine),
        "registry": service("registry", {RELEASE_VARIABLE: "0.0.1+abc"}),
        "kafka": service("kafka", {}),
    }
    assert release_of(scripts["deployer"]) == ""
    assert outdated_services(scripts) == ("registry", "deployer")


def test_settings_are_kept_and_the_caller_wins():
    scripts = {"monitor": service("monitor", {"TIDEGATE_MONITOR_SLICE_S": "0.5", "TIDEGATE_MONITOR_PORT": "1"})}
    caller = {"TIDEGATE_MONITOR_PORT": "2", "HOME": "/root"}
    found = settings_of(scripts, caller)
    assert (found["TIDEGATE_MONITOR_SLICE_S"], found["TIDEGATE_MONITOR_PORT"]) == ("0.5", "2")


def test_what_runs_is_remembered_when_its_files_are_written_anew(tmp_path):
    layout = Layout.of(tmp_path / "stack")
    layout.make()
    (layout.run / "gateway.sh").write_text(gateway(tmp_path / "a"))
    before = contents_of(layout, running_scripts(layout))
    note_contents(layout, before)
    (tmp_path / "a" / "bootstrap.json").write_text("of the new release")
    assert contents_of(layout, running_scripts(layout)) == before


def test_a_record_of_a_release_with_fewer_ports_is_read(tmp_path):
    layout = Layout.of(tmp_path / "stack")
    layout.make()
    for base, metrics in ((0, 0), (17400, 17410)):
        plan = PortPlan.from_base(base or 20000)
        record.save(layout, record.Record(port_base=base, ports=plan, running=True))
        document = json.loads(layout.record.read_text())
        document["ports"] = {name: port for name, port in document["ports"].items() if "metrics" not in name}
        layout.record.write_text(json.dumps(document))
        found = record.load(layout)
        assert found is not None
        assert (found.ports.kafka, found.ports.registry_metrics) == (plan.kafka, metrics)
