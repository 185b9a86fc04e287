"""The full route without one of its features at a time, to see what each costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from tidegate.deployer.xds.resources import GatewayResources

Change = Callable[[HttpConnectionManager, RouteConfiguration], None]


def _forwarding(routes: RouteConfiguration) -> list[Route]:
    """Return the routes that go to a cluster; reading ``route`` of the others would make one."""
    return [route for route in routes.virtual_hosts[0].routes if route.HasField("route")]


def _nothing(_manager: HttpConnectionManager, _routes: RouteConfiguration) -> None:
    """Leave the route as it is."""


def _log(manager: HttpConnectionManager, _routes: RouteConfiguration) -> None:
    router = Router()
    manager.http_filters[-1].typed_config.Unpack(router)
    router.ClearField("upstream_log")
    manager.http_filters[-1].typed_config.Pack(router)


def _hygiene(manager: HttpConnectionManager, _routes: RouteConfiguration) -> None:
    manager.ClearField("early_header_mutation_extensions")


def _path_rules(manager: HttpConnectionManager, _routes: RouteConfiguration) -> None:
    for field in ("normalize_path", "merge_slashes", "path_with_escaped_slashes_action"):
        manager.ClearField(field)


def _retry(_manager: HttpConnectionManager, routes: RouteConfiguration) -> None:
    for route in _forwarding(routes):
        route.route.ClearField("retry_policy")


def _response_headers(_manager: HttpConnectionManager, routes: RouteConfiguration) -> None:
    for route in _forwarding(routes):
        route.ClearField("response_headers_to_add")


def _request_headers(_manager: HttpConnectionManager, routes: RouteConfiguration) -> None:
    for route in _forwarding(routes):
        for cluster in route.route.weighted_clusters.clusters:
            cluster.ClearField("request_headers_to_add")


def _all(manager: HttpConnectionManager, routes: RouteConfiguration) -> None:
    for change in (_log, _hygiene, _path_rules, _retry, _response_headers, _request_headers):
        change(manager, routes)


WHOLE: Final = "nothing removed"
# None: the table has no fallback, so there are neither composite clusters nor retries.
VARIANTS: Final[Mapping[str, Change | None]] = {
    WHOLE: _nothing,
    "upstream log": _log,
    "header hygiene": _hygiene,
    "path rules": _path_rules,
    "retry and per-try timeout": _retry,
    "fallback (composite and retry)": None,
    "response headers": _response_headers,
    "request headers": _request_headers,
    "any of these but fallback": _all,
}


def fixed_listener(resources: GatewayResources, change: Change | None) -> Listener:
    """Return the listener with its routes in it instead of RDS, after ``change``."""
    listener = Listener()
    listener.CopyFrom(resources.listener)
    routes = RouteConfiguration()
    routes.CopyFrom(resources.route_configuration)
    holder = listener.filter_chains[0].filters[0].typed_config
    manager = HttpConnectionManager()
    holder.Unpack(manager)
    if change is not None:
        change(manager, routes)
    manager.route_config.CopyFrom(routes)
    holder.Pack(manager)
    return listener
