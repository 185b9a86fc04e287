"""Route tables as Envoy resources; pure, golden files in the tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from tidegate.deployer.xds.checks import check_table
from tidegate.deployer.xds.clusters import table_clusters
from tidegate.deployer.xds.listener import gateway_listener
from tidegate.deployer.xds.ordering import ModelResources
from tidegate.deployer.xds.routes import route_configuration, table_routes
from tidegate.deployer.xds.tuning import GatewayAddress, GatewayTuning
from tidegate.v1.rollout_events_pb2 import RouteTable


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayResources:
    """All that a proxy has once it has everything."""

    listener: Listener
    route_configuration: RouteConfiguration
    clusters: Mapping[str, Cluster]


def gateway_resources(tables: Iterable[RouteTable], address: GatewayAddress, tuning: GatewayTuning) -> GatewayResources:
    """Return the resources of ``tables``, models in order of their names.

    Raises:
        InvalidInput: A table is not legal.

    """
    models = {table.model: model_resources(table, tuning) for table in tables}
    return GatewayResources(
        listener=gateway_listener(address, tuning),
        route_configuration=merge_routes(models),
        clusters={
            name: Cluster.FromString(body)
            for model in sorted(models)
            for name, body in sorted(models[model].clusters.items())
        },
    )


def model_resources(table: RouteTable, tuning: GatewayTuning) -> ModelResources:
    """Return the resources of one model, checked alone so that a fault in one never touches another.

    Raises:
        InvalidInput: The table is not legal (code ``ROUTE_TABLE_INVALID``).

    """
    check_table(table)
    return ModelResources(
        model=table.model,
        epoch=table.epoch,
        revision=table.revision,
        clusters={name: encode(cluster) for name, cluster in table_clusters(table, tuning).items()},
        routes=tuple(encode(route) for route in table_routes(table, tuning)),
    )


def merge_routes(models: Mapping[str, ModelResources]) -> RouteConfiguration:
    """Return the RouteConfiguration of all ``models``, in order of their names."""
    bodies = (body for model in sorted(models) for body in models[model].routes)
    return route_configuration(Route.FromString(body) for body in bodies)


def encode(message: Any) -> bytes:
    """Return ``message`` in bytes that are the same whenever the content is."""
    encoded: bytes = message.SerializeToString(deterministic=True)
    return encoded


def content_version(bodies: Iterable[bytes]) -> str:
    """Return a version that depends on nothing but the content, so it outlives this process."""
    digest = hashlib.sha256()
    for body in bodies:
        digest.update(len(body).to_bytes(8, "big") + body)
    return digest.hexdigest()[:32]
