"""Settings of the registry (prefix ``TIDEGATE_REGISTRY_``)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from tidegate.core.settings import ServiceSettings

MIB: Final = 1 << 20


class RegistrySettings(ServiceSettings):
    """Where the registry keeps its state, and what it accepts."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_REGISTRY_", frozen=True)

    database_url: SecretStr = Field(
        SecretStr(""), description="SQLAlchemy URL (may hold a password); empty = SQLite in the data folder."
    )
    import_dir: Path | None = Field(None, description="Folder that file:// artifacts may lie in; unset = none.")
    source_buckets: str = Field(
        "tidegate-uploads",
        description="Buckets that s3:// artifacts may lie in, comma-separated; the own one always may.",
    )
    artifact_bytes_max: int = Field(512 * MIB, gt=0, description="Largest artifact, in bytes.")
    file_bytes_max: int = Field(64 * MIB, gt=0, description="Largest evaluation, reference or sample file, in bytes.")

    def url(self) -> str:
        """Return the database to use."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.data_dir.resolve() / 'registry.sqlite3'}"

    def buckets(self, own: str) -> frozenset[str]:
        """Return the buckets that sources may lie in."""
        return frozenset({own, *(name.strip() for name in self.source_buckets.split(",") if name.strip())})
