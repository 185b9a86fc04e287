"""Settings of the deployer (prefix ``TIDEGATE_DEPLOYER_``)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from tidegate.core.settings import ServiceSettings


class DeployerSettings(ServiceSettings):
    """What the deployer needs to know."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_DEPLOYER_", frozen=True)

    gateway_host: str = Field("127.0.0.1", description="Address that every gateway listens on.")
    gateway_port: int = Field(7403, description="Port that every gateway listens on.")
    gateway_callers_file: Path | None = Field(
        None, description="Who may ask for predictions (docs/security.md), read at the start; unset = everybody."
    )
    modelhost: str = Field("127.0.0.1:7408", description="The live model host, host:port.")
    runtime: str = Field("kserve-onnx", description="Runtime of live model servers.")
    load_timeout_s: float = Field(60.0, description="Longest start of a live model server, in seconds.")
    tick_s: float = Field(0.25, description="How often time enters the decisions, in seconds.")
    decided_within_s: float = Field(
        8.0, gt=0, description="How long a command waits for its decision, in seconds; clients wait 10 s by default."
    )
    lease_s: float = Field(60.0, description="How long a proxy that has gone counts as missing, in seconds.")
