"""Limits and times of the gateway, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

WEIGHT_TOTAL: Final = 1_000_000

XDS_CLUSTER: Final = "tidegate-xds"
ACCESS_LOG_CLUSTER: Final = "tidegate-access-log"
ACCESS_LOG_NAME: Final = "tidegate-upstream"
LISTENER_NAME: Final = "gateway"
ROUTE_CONFIGURATION_NAME: Final = "models"

ARM_HEADER: Final = "x-tidegate-arm"
ROUTE_HEADER: Final = "x-tidegate-route"
UNIT_HEADER: Final = "x-tidegate-unit"
VERSION_HEADER: Final = "x-tidegate-version"
PREDICTION_HEADER: Final = "x-tidegate-prediction-id"
REQUEST_ID_HEADER: Final = "x-request-id"

# Never the bottleneck: a candidate that fails every request at any weight must not exhaust them, or clients see it.
# Amplification is bounded anyway: one retry a request, and only for requests assigned to a candidate.
CIRCUIT_LIMIT: Final = 100_000

# Linux refuses longer paths of unix sockets (108 bytes with the final zero).
SOCKET_PATH_BYTES_MAX: Final = 107


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayTuning:
    """Times and sizes; the defaults are those of the contract."""

    per_try_timeout_s: float = 5.0
    """One attempt, headers to last byte; then the fallback answers, or 504."""
    connect_timeout_s: float = 1.0
    upstream_idle_timeout_s: float = 2.0
    """Shorter than a model server's keep-alive (5 s), or it closes a connection just as a request is sent on it."""
    access_log_flush_s: float = 0.1
    body_bytes_max: int = 8 * 1024 * 1024
    """Requests up to this size are kept to be sent again to the fallback."""

    @property
    def drain_s(self) -> float:
        """After a shift: until then a request of the route before it may need its cluster to be tried again."""
        return self.per_try_timeout_s + 1.0

    @property
    def route_timeout_s(self) -> float:
        """Two attempts and some air."""
        return 2 * self.per_try_timeout_s + 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayAddress:
    """Where every proxy of the fleet listens for predictions."""

    host: str
    port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayCaller:
    """An application that may ask for predictions, where not everybody may; ``repr`` does not show the token."""

    name: str
    token: str = field(repr=False)
