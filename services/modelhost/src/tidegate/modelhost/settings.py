"""Settings of the model host."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from tidegate.core.settings import ServiceSettings

# The kernel takes 107 bytes; Envoy and we stay below a rounder number.
SOCKET_PATH_LENGTH_MAX: Final = 100
# A folder of twelve hex digits and a one-letter name for each server.
SOCKET_NAME_LENGTH: Final = len("/0123456789ab/s")


class Listen(StrEnum):
    """How model servers listen."""

    UNIX = "unix"
    TCP = "tcp"


class SandboxChoice(StrEnum):
    """Which isolation is used: the best that works, or exactly one."""

    AUTO = "auto"
    LIMITS = "limits"
    BUBBLEWRAP = "bubblewrap"


class ModelHostSettings(ServiceSettings):
    """The model host's settings (prefix ``TIDEGATE_MODELHOST_``)."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_MODELHOST_", frozen=True)

    listen: Listen = Field(Listen.UNIX, description="How model servers listen: unix (sockets) or tcp (ports).")
    tcp_host: str = Field("127.0.0.1", description="Address that model servers bind and announce, with listen=tcp.")
    socket_dir: Path = Field(Path("/tmp/tidegate"), description="Short folder for the sockets; own to this host.")  # noqa: S108
    runtimes_dir: Path = Field(Path("runtimes"), description="Folder of the serving runtimes.")
    sandbox: SandboxChoice = Field(SandboxChoice.AUTO, description="auto, limits or bubblewrap.")
    stop_grace_s: float = Field(5.0, gt=0, description="Time from SIGTERM to SIGKILL, in seconds.")
    servers_max: int = Field(32, ge=1, description="Most servers at a time.")
    artifact_bytes_max: int = Field(2 << 30, gt=0, description="Largest artifact, in bytes.")
    artifact_cache_bytes_max: int = Field(8 << 30, gt=0, description="Artifacts kept though unused, in bytes.")
    log_bytes_max: int = Field(4 << 20, ge=1 << 16, description="Longest log of a server, in bytes; its head is cut.")
    temporary_bytes_max: int = Field(64 << 20, gt=0, description="Size of /tmp in the sandbox, in bytes.")
    open_files_max: int = Field(1024, ge=64, description="Most open files of a model server.")
    nice: int = Field(5, ge=0, le=19, description="Niceness of model servers: the control plane comes first.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        length = len(str(self.socket_dir.absolute())) + SOCKET_NAME_LENGTH
        if self.listen is Listen.UNIX and length >= SOCKET_PATH_LENGTH_MAX:
            raise ValueError(
                f"socket_dir is {self.socket_dir}: sockets would be {length} characters long, "
                f"expected less than {SOCKET_PATH_LENGTH_MAX}"
            )
        if self.listen is Listen.TCP and self.sandbox is SandboxChoice.BUBBLEWRAP:
            raise ValueError("sandbox is bubblewrap, which has no network; expected listen=unix")
        return self
