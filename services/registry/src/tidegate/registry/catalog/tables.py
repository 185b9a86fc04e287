"""The tables of the registry; migrations/ creates them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    false,
)

metadata: Final = MetaData()

# SQLite counts only INTEGER primary keys up by itself.
_ROW_ID = BigInteger().with_variant(Integer(), "sqlite")

models: Final = Table(
    "models",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("version_count", BigInteger, nullable=False),
    Column("latest_id", BigInteger, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

versions: Final = Table(
    "versions",
    metadata,
    Column("id", _ROW_ID, primary_key=True, autoincrement=True),
    Column("model", String(128), nullable=False),
    Column("major", Integer, nullable=False),
    Column("minor", Integer, nullable=False),
    Column("pipeline", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("fingerprint_digest", String(80), nullable=False),
    Column("artifact_digest", String(80), nullable=False),
    Column("code_commit", String(256), nullable=False),
    Column("pipeline_digest", String(256), nullable=False),
    Column("config_digest", String(256), nullable=False),
    Column("baseline_id", BigInteger),
    Column("verdict", String(16), nullable=False),
    Column("validation", String(16), nullable=False),
    # The whole ModelRegistered event: what a lookup answers with.
    Column("registered", LargeBinary, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    UniqueConstraint("model", "major", "minor", "pipeline"),
    UniqueConstraint("model", "sequence"),
    Index("versions_by_fingerprint", "model", "fingerprint_digest"),
    Index("versions_by_baseline", "baseline_id"),
)

edges: Final = Table(
    "edges",
    metadata,
    Column("id", _ROW_ID, primary_key=True, autoincrement=True),
    Column("version_id", BigInteger, ForeignKey("versions.id"), nullable=False),
    # dataset, preprocessing, environment, parent or baseline.
    Column("kind", String(32), nullable=False),
    Column("source", String(1024), nullable=False),
    Index("edges_by_version", "version_id"),
    Index("edges_by_source", "source"),
)

aliases: Final = Table(
    "aliases",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("alias", String(32), primary_key=True),
    Column("major", Integer, nullable=False),
    Column("minor", Integer, nullable=False),
    Column("pipeline", Integer, nullable=False),
    Column("etag", String(64), nullable=False),
    Column("rollout_id", String(256), nullable=False),
    Column("update_time", DateTime(timezone=True), nullable=False),
)

policies: Final = Table(
    "policies",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("policy", LargeBinary, nullable=False),
    Column("actor", String(256), nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

requests: Final = Table(
    "requests",
    metadata,
    # Method and model.
    Column("scope", String(256), primary_key=True),
    Column("request_id", String(256), primary_key=True),
    Column("body_digest", String(80), nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

# Last sequence of each model's events: ours (source = tidegate/registry) and others' as consumed.
sequences: Final = Table(
    "sequences",
    metadata,
    Column("model", String(512), primary_key=True),
    Column("source", String(256), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

consumed: Final = Table(
    "consumed",
    metadata,
    Column("event_id", String(256), primary_key=True),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

outbox: Final = Table(
    "outbox",
    metadata,
    Column("id", _ROW_ID, primary_key=True, autoincrement=True),
    Column("event_id", String(64), nullable=False, unique=True),
    Column("topic", String(256), nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("headers", String, nullable=False),
    Column("published", Boolean, nullable=False, server_default=false()),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Index("outbox_unpublished", "published", "id"),
    # An id that was used must never come again, or a reader would miss a row.
    sqlite_autoincrement=True,
)

# How far each topic of a bus is reflected in these tables: offsets below ``next_offset`` are.
positions: Final = Table(
    "positions",
    metadata,
    # Cluster id and topic prefix: offsets of another bus mean nothing.
    Column("bus", String(256), primary_key=True),
    # In full, with the prefix of the environment.
    Column("topic", String(256), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
)

# Few things that are known of this database itself.
facts: Final = Table(
    "facts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", String, nullable=False),
)
