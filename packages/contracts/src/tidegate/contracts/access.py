"""Who may call what over gRPC: the role that each call wants, and where its request names the model.

The servers let nobody in but by this table (:mod:`tidegate.core.guard`), so a call that is missing here is refused;
``docs/security.md`` shows it, and a test holds the two and the protos together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Role(StrEnum):
    """What a caller is; a token has one."""

    READER = "reader"
    PRODUCER = "producer"
    APPROVER = "approver"
    OPERATOR = "operator"
    ADMIN = "admin"
    SERVICE = "service"

    def covers(self, wanted: Role) -> bool:
        """Return whether this role may do what ``wanted`` may: all read, an admin does everything."""
        return wanted in {self, Role.READER} or self is Role.ADMIN


class Scope(StrEnum):
    """How a call is held to the models of a token that is bound to some."""

    # The field is the model, or a resource name below it (models/M, models/M/versions/1.2.3, models/M@alias).
    FIELD = "the request names the model"
    # The request names something of a model, whose handler knows which: it asks the caller itself.
    HANDLER = "the handler knows the model, or leaves out the others"
    # Whoever is bound to some models may not call it.
    ALL = "concerns all models"
    # It tells nothing of any model.
    NONE = "concerns no model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """What a call wants of its caller; ``role`` None = nothing, not even a token."""

    role: Role | None
    scope: Scope
    field: str = ""


def _on(role: Role, field: str) -> Access:
    return Access(role=role, scope=Scope.FIELD, field=field)


def _within(role: Role) -> Access:
    return Access(role=role, scope=Scope.HANDLER)


_ANYBODY: Final = Access(role=None, scope=Scope.NONE)
_SERVICES: Final = Access(role=Role.SERVICE, scope=Scope.ALL)
_KNOWN: Final = Access(role=Role.READER, scope=Scope.NONE)

_BY_SERVICE: Final[dict[str, dict[str, Access]]] = {
    "tidegate.v1.RegistryService": {
        "RegisterVersion": _on(Role.PRODUCER, "training.model"),
        "GetVersion": _on(Role.READER, "name"),
        "ListVersions": _on(Role.READER, "parent"),
        "GetModel": _on(Role.READER, "name"),
        "ListModels": _within(Role.READER),
        "GetLineage": _on(Role.READER, "name"),
        "GetPolicy": _on(Role.READER, "name"),
        "SetAlias": _on(Role.OPERATOR, "parent"),
        "ApplyPolicy": _on(Role.ADMIN, "policy.model"),
    },
    "tidegate.v1.RolloutService": {
        "GetRollout": _within(Role.READER),
        "ListRollouts": _within(Role.READER),
        "WatchRollouts": _within(Role.READER),
        "StartRollout": _on(Role.OPERATOR, "model"),
        "RetireModel": _on(Role.OPERATOR, "model"),
        "RetireVersion": _on(Role.OPERATOR, "model"),
        "PauseRollout": _within(Role.OPERATOR),
        "ResumeRollout": _within(Role.OPERATOR),
        "PromoteRollout": _within(Role.OPERATOR),
        "AbortRollout": _within(Role.OPERATOR),
        "ApproveRollout": _within(Role.APPROVER),
        "RollbackModel": _on(Role.OPERATOR, "model"),
    },
    "tidegate.v1.ModelHostService": {
        "StartServer": _SERVICES,
        "StopServer": _SERVICES,
        "ListServers": _SERVICES,
        "GetServerLog": _SERVICES,
    },
    "envoy.service.discovery.v3.AggregatedDiscoveryService": {
        "StreamAggregatedResources": _SERVICES,
        "DeltaAggregatedResources": _SERVICES,
    },
    "envoy.service.accesslog.v3.AccessLogService": {"StreamAccessLogs": _SERVICES},
    "grpc.health.v1.Health": {"Check": _ANYBODY, "Watch": _ANYBODY, "List": _ANYBODY},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": _KNOWN},
}
ACCESS: Final[dict[str, Access]] = {
    f"/{service}/{name}": access for service, calls in _BY_SERVICE.items() for name, access in calls.items()
}
# The calls of gateways: an Envoy that an older release started sends no token (TIDEGATE_ADMIT_OLD_GATEWAYS).
GATEWAY_CALLS: Final = frozenset(
    path for path in ACCESS if path.startswith(("/envoy.service.discovery.", "/envoy.service.accesslog."))
)


def model_of(request: Any, field: str) -> str:
    """Return the model that ``field`` (a dotted path) of ``request`` names, itself or by a resource name."""
    found = request
    for name in field.split("."):
        found = getattr(found, name)
    text = str(found)
    return text.removeprefix("models/").partition("/")[0].partition("@")[0] if text.startswith("models/") else text
