"""Settings of the monitor (prefix ``TIDEGATE_MONITOR_``)."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from tidegate.core.settings import ServiceSettings
from tidegate.monitor.judges.values import STEP_REQUESTS_MIN


class MonitorSettings(ServiceSettings):
    """How the monitor listens, slices and reports."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_MONITOR_", frozen=True)

    slice_s: float = Field(0.25, gt=0, le=10, description="Length of a time slice: how often a batch is published.")
    report_s: float = Field(1.0, gt=0, le=10, description="How often each active rollout is reported on.")
    hold_s: float = Field(2.0, gt=0, le=60, description="How long a batch waits for the rollout step of its route.")
    step_requests_min: int = Field(
        STEP_REQUESTS_MIN, ge=1, description="Least requests of the candidate at a step before it has evidence."
    )
