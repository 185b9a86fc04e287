"""Routes of one model, and those that every gateway has; pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf import json_format

from tidegate.contracts.names import format_version, version_reference
from tidegate.deployer.xds.clusters import arm_cluster, has_fallback
from tidegate.deployer.xds.tuning import (
    ARM_HEADER,
    PREDICTION_HEADER,
    REQUEST_ID_HEADER,
    ROUTE_CONFIGURATION_NAME,
    ROUTE_HEADER,
    UNIT_HEADER,
    VERSION_HEADER,
    GatewayTuning,
)
from tidegate.v1.rollout_events_pb2 import RouteArm, RouteLine, RouteTable

# Answers that are not 2xx and that "5xx" does not cover. 1xx never ends a request.
_FALLBACK_STATUS_CODES: Final = tuple(range(300, 500))
_FALLBACK_ON: Final = "5xx,reset,connect-failure,retriable-status-codes"


def table_routes(table: RouteTable, tuning: GatewayTuning) -> tuple[Route, ...]:
    """Return the routes of ``table``: for the line that unversioned requests follow, then for each line."""
    bodies: list[dict[str, Any]] = []
    for index, line in enumerate(table.lines):
        bases = [f"/v2/models/{table.model}"] if index == 0 else []
        bases.append(f"/v2/models/{table.model}/versions/{line.major}")
        for base in bases:
            bodies.extend(_line_routes(table, line, base, tuning))
    return tuple(json_format.ParseDict(body, Route()) for body in bodies)


def route_configuration(routes: Iterable[Route]) -> RouteConfiguration:
    """Return the one RouteConfiguration of the gateway: ``routes`` between the health routes and the 404.

    One for all models: a listener can name only one without scopes, and scopes can be keyed by headers but not by path.
    """
    configuration = RouteConfiguration(name=ROUTE_CONFIGURATION_NAME)
    host = configuration.virtual_hosts.add(name="models", domains=["*"])
    host.routes.extend(json_format.ParseDict(body, Route()) for body in _health_routes())
    host.routes.extend(routes)
    host.routes.append(json_format.ParseDict(_not_found_route(), Route()))
    return configuration


def _line_routes(table: RouteTable, line: RouteLine, base: str, tuning: GatewayTuning) -> Iterator[dict[str, Any]]:
    upstream = f"/v2/models/{table.model}"
    yield _infer_route(table, line, base, upstream, tuning)
    for suffix in ("", "/ready"):
        yield {
            "name": f"{table.model}/{line.major}/metadata",
            "match": {"path": base + suffix},
            "response_headers_to_add": [_header(VERSION_HEADER, "%UPSTREAM_METADATA(tidegate:version)%")],
            "route": {
                "cluster": version_reference(table.model, _metadata_arm(line).version),
                "timeout": _seconds(tuning.per_try_timeout_s),
                **_rewrite(base + suffix, upstream + suffix),
            },
        }


def _infer_route(table: RouteTable, line: RouteLine, base: str, upstream: str, tuning: GatewayTuning) -> dict[str, Any]:
    weighted: dict[str, Any] = {
        "clusters": [_cluster_weight(table, line, arm) for arm in line.arms if arm.weight_millionths]
    }
    action: dict[str, Any] = {
        "timeout": _seconds(tuning.route_timeout_s),
        "weighted_clusters": weighted,
        "retry_policy": _retry_policy(line, tuning),
        **_rewrite(f"{base}/infer", f"{upstream}/infer"),
    }
    if line.assignment == RouteLine.ASSIGNMENT_UNIT:
        weighted["use_hash_policy"] = True
        action["hash_policy"] = [_unit_hash(line.salt)]
    return {
        "name": f"{table.model}/{line.major}/infer",
        "match": {"path": f"{base}/infer"},
        "response_headers_to_add": [
            _header(VERSION_HEADER, "%UPSTREAM_METADATA(tidegate:version)%"),
            _header(PREDICTION_HEADER, f"%REQ({REQUEST_ID_HEADER})%"),
        ],
        "route": action,
    }


def _cluster_weight(table: RouteTable, line: RouteLine, arm: RouteArm) -> dict[str, Any]:
    return {
        "name": arm_cluster(table.model, line, arm),
        "weight": arm.weight_millionths,
        "request_headers_to_add": [
            _header(ARM_HEADER, format_version(arm.version)),
            _header(ROUTE_HEADER, f"{table.model}/{table.epoch}/{table.revision}"),
        ],
    }


def _retry_policy(line: RouteLine, tuning: GatewayTuning) -> dict[str, Any]:
    """Return a policy that retries once, on anything but 2xx, requests assigned to a candidate; never stable's own.

    The arm's header is added before Envoy looks at ``retriable_request_headers``, so it tells whose request this is.
    """
    policy: dict[str, Any] = {"per_try_timeout": _seconds(tuning.per_try_timeout_s)}
    candidates = [format_version(arm.version) for arm in line.arms if has_fallback(line, arm)]
    if candidates:
        policy |= {
            "retry_on": _FALLBACK_ON,
            "num_retries": 1,
            "retriable_status_codes": _FALLBACK_STATUS_CODES,
            "retriable_request_headers": [
                {"name": ARM_HEADER, "string_match": {"exact": version}} for version in candidates
            ],
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"},
        }
    return policy


def _metadata_arm(line: RouteLine) -> RouteArm:
    """Return the arm that describes the line: the fallback, else the heaviest."""
    for arm in line.arms:
        if line.HasField("fallback_version") and arm.version == line.fallback_version:
            return arm
    return max(line.arms, key=lambda arm: arm.weight_millionths)


def _unit_hash(salt: str) -> dict[str, Any]:
    # Salted per rollout, or the same users would be the first ones of every rollout.
    rewrite = {"pattern": {"regex": "^(.*)$"}, "substitution": f"{salt}:\\1"}
    return {"header": {"header_name": UNIT_HEADER, "regex_rewrite": rewrite}}


def _rewrite(path: str, upstream: str) -> dict[str, Any]:
    return {} if path == upstream else {"prefix_rewrite": upstream}


def _health_routes() -> Iterator[dict[str, Any]]:
    for word in ("live", "ready"):
        yield _direct(f"health/{word}", {"path": f"/v2/health/{word}"}, 200, {word: True})


def _not_found_route() -> dict[str, Any]:
    message = (
        "no model is served at this path; expected POST /v2/models/MODEL/infer or "
        "/v2/models/MODEL/versions/MAJOR/infer with a model that has a stable version"
    )
    return _direct("not-found", {"prefix": "/"}, 404, {"error": message})


def _direct(name: str, match: dict[str, str], status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "match": match,
        "response_headers_to_add": [_header("content-type", "application/json")],
        "direct_response": {"status": status, "body": {"inline_string": json.dumps(body)}},
    }


def _header(key: str, value: str) -> dict[str, Any]:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _seconds(value: float) -> str:
    return f"{value:.3f}s"
