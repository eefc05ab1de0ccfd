"""Counters that outlive runs, runs that come after others or are paused, webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tally",
        sa.Column("name", sa.String(60), primary_key=True),
        sa.Column("labels", sa.String(200), primary_key=True),
        sa.Column("bound", sa.String(20), primary_key=True),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.Double(), nullable=False),
    )
    with op.batch_alter_table("run") as batch:
        batch.add_column(sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column("interruption", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=True))
    op.create_table(
        "predecessor",
        sa.Column("run_id", sa.String(40), sa.ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("after_id", sa.String(40), sa.ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    )
    op.create_index("ix_predecessor_after_id", "predecessor", ["after_id"])

    _create_webhooks()


def _create_webhooks() -> None:
    json = sa.JSON().with_variant(JSONB(), "postgresql")
    op.create_table(
        "webhook",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("events", json, nullable=False),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("webhook_id", sa.String(40), sa.ForeignKey("webhook.id", ondelete="CASCADE"), nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("payload", json, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.String(500), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_delivery_webhook_id", "delivery", ["webhook_id"])
    op.create_index("ix_delivery_done_at_next_at", "delivery", ["done_at", "next_at"])


def downgrade() -> None:
    """States that the older version does not know become the nearest one that it does."""
    run = sa.table("run", sa.column("state"))
    for state, nearest in (("waiting", "cancelled"), ("paused", "cancelled"), ("pausing", "cancelling")):
        op.execute(run.update().where(run.c.state == state).values(state=nearest))
    for table in ("delivery", "webhook", "predecessor"):
        op.drop_table(table)
    with op.batch_alter_table("run") as batch:
        batch.drop_column("interruption")
        batch.drop_column("ready_at")
    op.drop_table("tally")
