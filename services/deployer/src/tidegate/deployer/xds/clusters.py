"""Clusters of one model: one a version, and one a candidate that falls back to stable; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any, Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2  # noqa: F401  # known to json_format
from google.protobuf import descriptor_pb2, descriptor_pool, json_format

from tidegate.contracts.names import format_version, version_reference
from tidegate.deployer.xds.checks import split_endpoint
from tidegate.deployer.xds.tuning import CIRCUIT_LIMIT, GatewayTuning
from tidegate.v1.rollout_events_pb2 import RouteArm, RouteLine, RouteTable

TYPE_PREFIX: Final = "type.googleapis.com/"
_COMPOSITE: Final = "envoy.extensions.clusters.composite.v3"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def table_clusters(table: RouteTable, tuning: GatewayTuning) -> dict[str, Cluster]:
    """Return the clusters that the routes of ``table`` name, and their members, by name.

    Sockets and IP addresses are better endpoints than names: Envoy acknowledges a cluster without waiting for the
    resolver, so a name that resolves slowly costs requests that have no fallback.
    """
    clusters: dict[str, Cluster] = {}
    for line in table.lines:
        for arm in line.arms:
            for body in _arm_clusters(table.model, line, arm, tuning):
                clusters[body["name"]] = json_format.ParseDict(body, Cluster())
    return clusters


def arm_cluster(model: str, line: RouteLine, arm: RouteArm) -> str:
    """Return the name of the cluster that requests assigned to ``arm`` go to."""
    name = version_reference(model, arm.version)
    return f"{name}+{format_version(line.fallback_version)}" if has_fallback(line, arm) else name


def has_fallback(line: RouteLine, arm: RouteArm) -> bool:
    """Say whether another version answers when ``arm`` cannot."""
    return line.HasField("fallback_version") and line.fallback_version != arm.version


def _arm_clusters(model: str, line: RouteLine, arm: RouteArm, tuning: GatewayTuning) -> Iterator[dict[str, Any]]:
    own = version_reference(model, arm.version)
    yield _version_cluster(own, format_version(arm.version), tuple(arm.endpoints), tuning)
    if has_fallback(line, arm):
        members = (own, version_reference(model, line.fallback_version))
        yield _composite_cluster(arm_cluster(model, line, arm), members, tuning)


def _version_cluster(name: str, version: str, endpoints: tuple[str, ...], tuning: GatewayTuning) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC" if all(_is_static(endpoint) for endpoint in endpoints) else "STRICT_DNS",
        # Else a name with addresses of both kinds, such as localhost, means the IPv6 one, where nobody may listen.
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": _seconds(tuning.connect_timeout_s),
        "circuit_breakers": _circuit_breakers(),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": TYPE_PREFIX + _HTTP_OPTIONS,
                "common_http_protocol_options": {"idle_timeout": _seconds(tuning.upstream_idle_timeout_s)},
                "explicit_http_config": {"http_protocol_options": {}},
            },
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [_lb_endpoint(endpoint, version) for endpoint in endpoints]}],
        },
    }


def _composite_cluster(name: str, members: tuple[str, str], tuning: GatewayTuning) -> dict[str, Any]:
    """Return a cluster whose first attempt goes to the first member and whose retry goes to the second."""
    return {
        "name": name,
        "connect_timeout": _seconds(tuning.connect_timeout_s),
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": _circuit_breakers(),
        "cluster_type": {
            "name": "envoy.clusters.composite",
            "typed_config": {
                "@type": f"{TYPE_PREFIX}{_COMPOSITE}.ClusterConfig",
                "clusters": [{"name": member} for member in members],
            },
        },
    }


def _lb_endpoint(endpoint: str, version: str) -> dict[str, Any]:
    host, port = split_endpoint(endpoint)
    address = {"socket_address": {"address": host, "port_value": port}} if port else {"pipe": {"path": host}}
    return {
        "endpoint": {"address": address},
        # The response header x-tidegate-version is read from here: it tells who answered, not who was asked first.
        "metadata": {"filter_metadata": {"tidegate": {"version": version}}},
    }


def _circuit_breakers() -> dict[str, Any]:
    limits = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {"thresholds": [dict.fromkeys(limits, CIRCUIT_LIMIT)]}


def _is_static(endpoint: str) -> bool:
    host, port = split_endpoint(endpoint)
    if not port:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _seconds(value: float) -> str:
    return f"{value:.3f}s"


def _register_composite() -> None:
    """Make the composite cluster's message known: Envoy 1.40 has it, xds-protos 1.85 lags behind."""
    pool = descriptor_pool.Default()
    try:
        pool.FindMessageTypeByName(f"{_COMPOSITE}.ClusterConfig")
    except KeyError:
        field = descriptor_pb2.FieldDescriptorProto
        config = descriptor_pb2.DescriptorProto(name="ClusterConfig")
        entry = config.nested_type.add(name="ClusterEntry")
        entry.field.add(name="name", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
        config.field.add(
            name="clusters",
            number=1,
            type=field.TYPE_MESSAGE,
            label=field.LABEL_REPEATED,
            type_name=f".{_COMPOSITE}.ClusterConfig.ClusterEntry",
        )
        file = descriptor_pb2.FileDescriptorProto(
            name="tidegate/envoy/composite_cluster.proto", package=_COMPOSITE, syntax="proto3", message_type=[config]
        )
        pool.AddSerializedFile(file.SerializeToString())


_register_composite()
