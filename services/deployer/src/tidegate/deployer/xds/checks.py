"""What a route table must be before any proxy sees it; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tidegate.contracts.names import format_version, is_model
from tidegate.core.errors import InvalidInput
from tidegate.deployer.xds.tuning import SOCKET_PATH_BYTES_MAX, WEIGHT_TOTAL
from tidegate.v1.rollout_events_pb2 import ArmRole, RouteArm, RouteLine, RouteTable

_HOST_PORT: Final = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([1-9][0-9]{0,4})")
_SALT: Final = re.compile(r"[A-Za-z0-9@._:/+-]{0,256}")
_PORT_MAX: Final = 65_535
_ASSIGNMENTS: Final = (
    RouteLine.ASSIGNMENT_UNSPECIFIED,
    RouteLine.ASSIGNMENT_REQUEST,
    RouteLine.ASSIGNMENT_UNIT,
)
_ROLES: Final = (ArmRole.ARM_ROLE_STABLE, ArmRole.ARM_ROLE_CANDIDATE, ArmRole.ARM_ROLE_ARM)


def check_table(table: RouteTable) -> None:
    """Let ``table`` pass, or say all that is wrong with it.

    Raises:
        InvalidInput: A proxy would refuse the table, or lose requests with it (code ``ROUTE_TABLE_INVALID``).

    """
    faults = [*_faults(table)]
    if faults:
        raise InvalidInput(
            f"route table {table.model!r} epoch {table.epoch} revision {table.revision}: {'; '.join(faults)}",
            code="ROUTE_TABLE_INVALID",
            field="lines",
        )


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, or the path and 0 of ``unix:/path``.

    Raises:
        ValueError: ``endpoint`` has neither form.

    """
    if endpoint.startswith("unix:"):
        path = endpoint.removeprefix("unix:")
        if not path.startswith("/") or len(path.encode()) > SOCKET_PATH_BYTES_MAX:
            raise ValueError(f"endpoint is {endpoint!r}, expected unix:/path of at most {SOCKET_PATH_BYTES_MAX} bytes")
        return path, 0
    match = _HOST_PORT.fullmatch(endpoint)
    if match is None or int(match.group(2)) > _PORT_MAX:
        raise ValueError(f"endpoint is {endpoint!r}, expected host:port or unix:/path")
    return match.group(1).strip("[]"), int(match.group(2))


def _faults(table: RouteTable) -> Iterator[str]:
    if not is_model(table.model):
        yield f"model is {table.model!r}, expected a legal name"
    majors = [line.major for line in table.lines]
    if len(set(majors)) != len(majors):
        yield f"lines have MAJOR {majors}, expected each once"
    for line in table.lines:
        for fault in _line_faults(line):
            yield f"line {line.major}: {fault}"


def _line_faults(line: RouteLine) -> Iterator[str]:
    total = sum(arm.weight_millionths for arm in line.arms)
    if total != WEIGHT_TOTAL:
        yield f"weights sum to {total}, expected {WEIGHT_TOTAL}"
    versions = [format_version(arm.version) for arm in line.arms]
    if len(set(versions)) != len(versions):
        yield f"versions are {versions}, expected each once"
    if line.HasField("fallback_version") and format_version(line.fallback_version) not in versions:
        yield f"fallback is {format_version(line.fallback_version)}, expected one of {versions}"
    if line.assignment not in _ASSIGNMENTS:
        yield f"assignment is {RouteLine.Assignment.Name(line.assignment)}, expected REQUEST or UNIT"
    if line.contextual:
        yield "a contextual policy is set, expected none"
    if _SALT.fullmatch(line.salt) is None:
        yield f"salt is {line.salt!r}, expected at most 256 letters, digits and @._:/+-"
    for arm in line.arms:
        yield from _arm_faults(arm, line)


def _arm_faults(arm: RouteArm, line: RouteLine) -> Iterator[str]:
    version = format_version(arm.version)
    if arm.version.major != line.major:
        yield f"version is {version}, expected MAJOR {line.major}"
    if arm.role not in _ROLES:
        yield f"role of {version} is {ArmRole.Name(arm.role)}, expected STABLE, CANDIDATE or ARM"
    if not arm.endpoints:
        yield f"{version} has no endpoint, expected at least one"
    for endpoint in arm.endpoints:
        try:
            split_endpoint(endpoint)
        except ValueError as error:
            yield f"{version}: {error}"
