"""The gateway's listener: header hygiene, routes by RDS, one log entry an upstream attempt; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from envoy.config.listener.v3.listener_pb2 import Listener

# Imported for json_format, which must know every message named by "@type".
from envoy.extensions.access_loggers.grpc.v3 import als_pb2  # noqa: F401
from envoy.extensions.filters.http.api_key_auth.v3 import api_key_auth_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2  # noqa: F401
from google.protobuf import json_format

from tidegate.deployer.xds.clusters import TYPE_PREFIX
from tidegate.deployer.xds.tuning import (
    ACCESS_LOG_CLUSTER,
    ACCESS_LOG_NAME,
    ARM_HEADER,
    LISTENER_NAME,
    REQUEST_ID_HEADER,
    ROUTE_CONFIGURATION_NAME,
    ROUTE_HEADER,
    UNIT_HEADER,
    GatewayAddress,
    GatewayCaller,
    GatewayTuning,
)

_EXTENSIONS: Final = TYPE_PREFIX + "envoy.extensions."
_OWN_PREFIX: Final = "x-tidegate-"
# What a client may say: its unit, its context (any name), and the version that it wants to see.
_ALLOWED_EXACT: Final = ("unit", "preview")
_ALLOWED_PREFIXES: Final = ("context-",)


def gateway_listener(address: GatewayAddress, tuning: GatewayTuning, callers: Sequence[GatewayCaller] = ()) -> Listener:
    """Return the listener that every proxy of the fleet opens; for ``callers`` alone, if there are any."""
    body = {
        "name": LISTENER_NAME,
        "address": {"socket_address": {"address": address.host, "port_value": address.port}},
        "per_connection_buffer_limit_bytes": tuning.body_bytes_max,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _connection_manager(tuning, callers),
                    }
                ]
            }
        ],
    }
    return json_format.ParseDict(body, Listener())


def foreign_header_patterns() -> tuple[str, ...]:
    """Return RE2 patterns of the ``x-tidegate-*`` headers that a client must not send.

    RE2 has no negative look-ahead, so the complement is spelled out letter by letter; one pattern for each first
    letter, because Envoy refuses programs of more than 100 instructions.
    """
    return tuple(_OWN_PREFIX + choice for choice in _choices(_ALLOWED_EXACT, _ALLOWED_PREFIXES))


def _choices(exact: Sequence[str], prefixes: Sequence[str]) -> list[str]:
    """Return patterns that together match what is none of ``exact`` and begins with none of ``prefixes``."""
    heads = sorted({word[0] for word in (*exact, *prefixes) if word})
    other = f"[^{''.join(re.escape(head) for head in heads)}].*" if heads else ".+"
    choices = [other if "" in exact else f"(?:{other})?"]
    for head in heads:
        rest_prefixes = [word[1:] for word in prefixes if word.startswith(head)]
        if "" not in rest_prefixes:
            rest_exact = [word[1:] for word in exact if word.startswith(head)]
            choices.append(f"{re.escape(head)}(?:{'|'.join(_choices(rest_exact, rest_prefixes))})")
    return choices


def _connection_manager(tuning: GatewayTuning, callers: Sequence[GatewayCaller]) -> dict[str, Any]:
    return {
        "@type": _EXTENSIONS + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "server_name": "tidegate",
        "rds": {
            "route_config_name": ROUTE_CONFIGURATION_NAME,
            "config_source": {"ads": {}, "resource_api_version": "V3"},
        },
        "early_header_mutation_extensions": [
            {
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {
                    "@type": _EXTENSIONS + "http.early_header_mutation.header_mutation.v3.HeaderMutation",
                    "mutations": _hygiene(),
                },
            }
        ],
        "http_filters": [
            *([_asks_who_calls(callers)] if callers else []),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": _EXTENSIONS + "filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                    "upstream_log": [_access_log(tuning)],
                },
            },
        ],
    }


def _asks_who_calls(callers: Sequence[GatewayCaller]) -> dict[str, Any]:
    """Refuse (401) whoever sends no token of ``callers``; no model server sees the tokens."""
    return {
        "name": "envoy.filters.http.api_key_auth",
        "typed_config": {
            "@type": _EXTENSIONS + "filters.http.api_key_auth.v3.ApiKeyAuth",
            "credentials": [{"key": caller.token, "client": caller.name} for caller in callers],
            # Of this header Envoy takes what follows "Bearer ".
            "key_sources": [{"header": "authorization"}],
            "forwarding": {"hide_credentials": True},
        },
    }


def _hygiene() -> list[dict[str, Any]]:
    """Remove what only the gateway may say; a new request id is made afterwards, so it is always ours."""
    return [
        {"remove": REQUEST_ID_HEADER},
        *({"remove_on_match": {"key_matcher": {"safe_regex": {"regex": it}}}} for it in foreign_header_patterns()),
        # Or a client could ask for retries and timeouts of its own.
        {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
    ]


def _access_log(tuning: GatewayTuning) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.http_grpc",
        "typed_config": {
            "@type": _EXTENSIONS + "access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            "common_config": {
                "log_name": ACCESS_LOG_NAME,
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": ACCESS_LOG_CLUSTER}},
                "buffer_flush_interval": f"{tuning.access_log_flush_s:.3f}s",
            },
            # Each is paid for with every request (bench/envoy.py); the request id is in every entry already.
            "additional_request_headers_to_log": [ARM_HEADER, ROUTE_HEADER, UNIT_HEADER],
        },
    }
