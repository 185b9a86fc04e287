"""Settings that several services share; each service has one frozen class with its own prefix."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidegate.contracts.topics import DEFAULT_PARTITION_COUNT, DEFAULT_PREFIX


class KafkaSettings(BaseSettings):
    """Where the event bus is (prefix ``TIDEGATE_KAFKA_``)."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_KAFKA_", frozen=True)

    bootstrap: str = Field("127.0.0.1:9092", description="Bootstrap servers, host:port, comma-separated.")
    topic_prefix: str = Field(DEFAULT_PREFIX, description="Prefix of every topic; keeps environments apart.")
    partition_count: int = Field(
        DEFAULT_PARTITION_COUNT, description="Partitions of every topic, fixed at installation."
    )


class ObjectStoreSettings(BaseSettings):
    """Where artifacts are (prefix ``TIDEGATE_S3_``)."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_S3_", frozen=True)

    endpoint: str = Field("127.0.0.1:9000", description="S3 endpoint, host:port.")
    access_key: SecretStr = Field(SecretStr("tidegate"), description="S3 access key.")
    secret_key: SecretStr = Field(SecretStr("tidegate"), description="S3 secret key.")
    secure: bool = Field(default=False, description="Use TLS.")
    bucket: str = Field("tidegate-artifacts", description="Bucket of the stored artifacts and reports.")


class ServiceSettings(BaseSettings):
    """What every service has; subclasses set ``env_prefix`` and ``frozen=True``."""

    host: str = Field("127.0.0.1", description="Address that the gRPC server listens on.")
    port: int = Field(0, description="Port of the gRPC server; 0 = any free one.")
    metrics_host: str = Field("127.0.0.1", description="Address that Prometheus metrics are served on.")
    metrics_port: int | None = Field(
        None, description="Port of Prometheus metrics (HTTP, /metrics); 0 = any free one, unset = no metrics served."
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    data_dir: Path = Field(Path(".tidegate"), description="Folder for what the service keeps on disk.")
