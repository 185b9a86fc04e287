"""Settings of the validator (prefix ``TIDEGATE_VALIDATOR_``)."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from tidegate.core.settings import ServiceSettings

MIB = 1 << 20


class ValidatorSettings(ServiceSettings):
    """What the validator needs to know."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_VALIDATOR_", frozen=True)

    modelhost: str = Field("127.0.0.1:7409", description="The sandbox's model host, host:port.")
    artifact_bytes_max: int = Field(512 * MIB, description="Largest artifact, in bytes.")
    file_bytes_max: int = Field(64 * MIB, description="Largest evaluation or sample file, in bytes.")
    sample_rows_max: int = Field(50, description="Sample requests that are sent one by one.")
    evaluation_rows_max: int = Field(50_000, description="Evaluation rows that metrics are computed from.")
    batch_rows: int = Field(500, description="Evaluation rows in one request.")
    request_timeout_s: float = Field(10.0, description="Longest answer, in seconds.")
    answer_bytes_max: int = Field(64 * MIB, description="Largest answer of a server, in bytes.")
    deadline_s: float = Field(300.0, description="Longest validation of one version, in seconds.")
