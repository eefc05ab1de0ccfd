"""What owners keep, in bytes. What is there already is not counted: the database does not know where the home lies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stored_bytes",
        sa.Column("path", sa.String(200), primary_key=True),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_stored_bytes_owner_bytes", "stored_bytes", ["owner", "bytes"])


def downgrade() -> None:
    op.drop_table("stored_bytes")
