"""What the gateway and the broker are told at their start."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tidegate.stack.gateway import bootstrap, prepare_gateway
from tidegate.stack.kafka import broker_properties

GOLDEN = Path(__file__).parent / "golden"
COMPOSE = Path(__file__).parents[3] / "deploy" / "envoy" / "bootstrap.yaml"


def test_bootstrap_is_as_reviewed():
    document = bootstrap(deployer_port=7405, monitor_port=7406, admin_socket=Path("/run/tidegate/envoy.sock"))
    assert document == json.loads((GOLDEN / "bootstrap.json").read_text())


def test_bootstrap_asks_for_the_same_as_the_one_for_containers():
    embedded = bootstrap(deployer_port=7405, monitor_port=7406, admin_socket=Path("/a.sock"))
    composed = yaml.safe_load(COMPOSE.read_text())
    for document in (embedded, composed):
        # Where things are differs; the proxy of a container gets its id on the command line.
        del document["admin"]
        document["node"].pop("id", None)
        for cluster in document["static_resources"]["clusters"]:
            del cluster["type"], cluster["load_assignment"]["endpoints"]
    assert embedded == composed


def test_gateway_writes_its_bootstrap_and_runs_one_worker(tmp_path):
    program = prepare_gateway(
        tmp_path, deployer_port=1, monitor_port=2, admin_socket=tmp_path / "a.sock", token="tdg_secret"
    )
    assert "tdg_secret" not in (tmp_path / "bootstrap.json").read_text()
    assert program.environment == {"TIDEGATE_GATEWAY_TOKEN": "tdg_secret"}
    assert json.loads((tmp_path / "bootstrap.json").read_text())["node"]["id"] == "gateway-1"
    assert program.command[3:5] == ("--concurrency", "1")
    assert "--disable-hot-restart" in program.command


def test_broker_listens_on_loopback_alone():
    lines = broker_properties(log_dir=Path("/data/log"), port=7400, controller_port=7401).splitlines()
    properties = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert properties["listeners"] == "PLAINTEXT://127.0.0.1:7400,CONTROLLER://127.0.0.1:7401"
    assert properties["log.dirs"] == "/data/log"
    assert properties["auto.create.topics.enable"] == "false"
    assert not any("$" in value for value in properties.values())
