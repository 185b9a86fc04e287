"""Remember how far each topic is reflected in the tables, and what is known of the database itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables, empty: without a position a topic is read from its beginning, which changes nothing."""
    op.create_table(
        "positions",
        sa.Column("bus", sa.String(256), primary_key=True),
        sa.Column("topic", sa.String(256), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "facts",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("facts")
    op.drop_table("positions")
