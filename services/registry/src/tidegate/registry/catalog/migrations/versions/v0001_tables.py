"""Create the registry's tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
_NAMES = (
    "models",
    "versions",
    "edges",
    "aliases",
    "policies",
    "requests",
    "sequences",
    "consumed",
    "outbox",
)


def upgrade() -> None:
    """Create all tables."""
    _create_catalog()
    _create_names()
    _create_delivery()


def downgrade() -> None:
    """Drop all tables."""
    for name in reversed(_NAMES):
        op.drop_table(name)


def _create_catalog() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("version_count", sa.BigInteger, nullable=False),
        sa.Column("latest_id", sa.BigInteger, nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("id", _ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("major", sa.Integer, nullable=False),
        sa.Column("minor", sa.Integer, nullable=False),
        sa.Column("pipeline", sa.Integer, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("fingerprint_digest", sa.String(80), nullable=False),
        sa.Column("artifact_digest", sa.String(80), nullable=False),
        sa.Column("code_commit", sa.String(256), nullable=False),
        sa.Column("pipeline_digest", sa.String(256), nullable=False),
        sa.Column("config_digest", sa.String(256), nullable=False),
        sa.Column("baseline_id", sa.BigInteger),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("validation", sa.String(16), nullable=False),
        sa.Column("registered", sa.LargeBinary, nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.UniqueConstraint("model", "major", "minor", "pipeline"),
        sa.UniqueConstraint("model", "sequence"),
    )
    op.create_index("versions_by_fingerprint", "versions", ["model", "fingerprint_digest"])
    op.create_index("versions_by_baseline", "versions", ["baseline_id"])
    op.create_table(
        "edges",
        sa.Column("id", _ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("version_id", sa.BigInteger, sa.ForeignKey("versions.id"), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("source", sa.String(1024), nullable=False),
    )
    op.create_index("edges_by_version", "edges", ["version_id"])
    op.create_index("edges_by_source", "edges", ["source"])


def _create_names() -> None:
    op.create_table(
        "aliases",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("alias", sa.String(32), primary_key=True),
        sa.Column("major", sa.Integer, nullable=False),
        sa.Column("minor", sa.Integer, nullable=False),
        sa.Column("pipeline", sa.Integer, nullable=False),
        sa.Column("etag", sa.String(64), nullable=False),
        sa.Column("rollout_id", sa.String(256), nullable=False),
        sa.Column("update_time", _TIME, nullable=False),
    )
    op.create_table(
        "policies",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("policy", sa.LargeBinary, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
    )
    op.create_table(
        "requests",
        sa.Column("scope", sa.String(256), primary_key=True),
        sa.Column("request_id", sa.String(256), primary_key=True),
        sa.Column("body_digest", sa.String(80), nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
    )


def _create_delivery() -> None:
    op.create_table(
        "sequences",
        sa.Column("model", sa.String(512), primary_key=True),
        sa.Column("source", sa.String(256), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "consumed",
        sa.Column("event_id", sa.String(256), primary_key=True),
        sa.Column("create_time", _TIME, nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("id", _ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.String(64), nullable=False, unique=True),
        sa.Column("topic", sa.String(256), nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.String, nullable=False),
        sa.Column("published", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("create_time", _TIME, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_unpublished", "outbox", ["published", "id"])
