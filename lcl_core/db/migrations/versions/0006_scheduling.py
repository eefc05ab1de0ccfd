"""What runs ask for and workers offer, runs that several workers take together, and what nothing names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("run") as batch:
        batch.add_column(sa.Column("resource", sa.String(20), nullable=False, server_default="accelerator"))
        batch.add_column(sa.Column("nodes", sa.Integer(), nullable=False, server_default="1"))
    run = sa.table("run", sa.column("kind"), sa.column("resource"))
    op.execute(run.update().where(run.c.kind.in_(["validate", "convert"])).values(resource="cpu"))
    json = sa.JSON().with_variant(JSONB(), "postgresql")
    with op.batch_alter_table("worker") as batch:  # a worker that is alive says at its next start what it offers
        batch.add_column(sa.Column("offers", json, nullable=False, server_default=sa.text("'[\"cpu\"]'")))
    op.create_table(
        "seat",
        sa.Column("run_id", sa.String(40), sa.ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("worker", sa.String(100), primary_key=True),
        sa.Column("token", sa.String(40), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_token", sa.String(40), nullable=True),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("address", sa.String(300), nullable=True),
        sa.Column("ending", json, nullable=True),
    )
    op.create_table(
        "garbage",
        sa.Column("path", sa.String(300), primary_key=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("garbage")
    op.drop_table("seat")
    with op.batch_alter_table("worker") as batch:
        batch.drop_column("offers")
    with op.batch_alter_table("run") as batch:
        batch.drop_column("nodes")
        batch.drop_column("resource")
