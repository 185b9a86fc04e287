"""Settings that several services share; each service has one frozen class with its own prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
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
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL, as the broker's listener has it."
    )
    sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field(
        "SCRAM-SHA-512", description="How the user proves who it is: SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN."
    )
    username: str = Field("", description="User of the broker: the principal that its rules know.")
    password: SecretStr = Field(SecretStr(""), description="The user's password.")
    ssl_cafile: Path | None = Field(None, description="Certificates to trust (PEM); unset = the system's.")
    ssl_certfile: Path | None = Field(None, description="Our own certificate (PEM), where the broker wants one.")
    ssl_keyfile: Path | None = Field(None, description="The key of our own certificate (PEM).")

    @property
    def uses_sasl(self) -> bool:
        """Whether we say to the broker who we are."""
        return self.security_protocol.startswith("SASL_")

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.security_protocol.endswith("SSL")

    @model_validator(mode="after")
    def _has_credentials(self) -> Self:
        if self.uses_sasl and not (self.username and self.password.get_secret_value()):
            raise ValueError(
                f"TIDEGATE_KAFKA_SECURITY_PROTOCOL is {self.security_protocol}, which needs "
                "TIDEGATE_KAFKA_USERNAME and TIDEGATE_KAFKA_PASSWORD"
            )
        return self


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


class AccessSettings(BaseSettings):
    """Whom a server lets in (prefix ``TIDEGATE_``)."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", frozen=True)

    tokens_file: Path | None = Field(None, description="File of the callers' tokens (docs/security.md).")
    tokens: str = Field("", description="What stands in such a file, where there is none.")
    insecure: bool = Field(default=False, description="Ask nobody who they are: whoever reaches a port does anything.")
    admit_old_gateways: bool = Field(
        default=False, description="Let gateways in without a token, while some run that an older release started."
    )
    tls_cert_file: Path | None = Field(None, description="The server's certificate chain (PEM); unset = no TLS.")
    tls_key_file: Path | None = Field(None, description="The key of the server's certificate (PEM).")
    tls_client_ca_file: Path | None = Field(
        None, description="Who signs callers' certificates (PEM); set = every caller needs one (mutual TLS)."
    )

    @model_validator(mode="after")
    def _is_a_lock(self) -> Self:
        if not (self.insecure or self.tokens_file or self.tokens):
            raise ValueError(
                "neither TIDEGATE_TOKENS_FILE nor TIDEGATE_TOKENS is set, so that nobody could call; "
                "docs/security.md says how to make tokens, and TIDEGATE_INSECURE=true lets everybody in"
            )
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("TIDEGATE_TLS_CERT_FILE and TIDEGATE_TLS_KEY_FILE need each other")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("TIDEGATE_TLS_CLIENT_CA_FILE needs TIDEGATE_TLS_CERT_FILE")
        return self


class CallerSettings(BaseSettings):
    """How we say to servers who we are (prefix ``TIDEGATE_``)."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", frozen=True)

    token: SecretStr = Field(SecretStr(""), description="Our token; sent with every call.")
    token_file: Path | None = Field(None, description="File with our token, where it is not in the environment.")
    tls_ca_file: Path | None = Field(None, description="Who signs servers' certificates (PEM); unset = no TLS.")
    tls_cert_file: Path | None = Field(None, description="Our own certificate (PEM), where servers want one.")
    tls_key_file: Path | None = Field(None, description="The key of our own certificate (PEM).")
