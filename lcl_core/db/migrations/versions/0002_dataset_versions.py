"""Versions of datasets, and what a run read."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _json(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON().with_variant(JSONB(), "postgresql"), nullable=True)


def upgrade() -> None:
    op.create_table(
        "dataset_version",
        sa.Column("name", sa.String(100), sa.ForeignKey("dataset.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("version", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        _json("statistics"),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("run_id", sa.String(40), sa.ForeignKey("run.id", ondelete="SET NULL"), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_dataset_version_run_id", "dataset_version", ["run_id"])
    op.add_column("run", _json("inputs"))


def downgrade() -> None:
    with op.batch_alter_table("run") as batch:
        batch.drop_column("inputs")
    op.drop_table("dataset_version")
