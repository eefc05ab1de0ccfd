"""Studies, their cells, and by what a run of the same spec is found again."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _json(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False)


def _time(name: str, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "study",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("name", sa.String(100), nullable=True),
        _json("spec"),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("idempotency_key", sa.String(200), nullable=True),
        sa.Column("body_hash", sa.String(64), nullable=False),
        _time("created_at"),
        _time("cancelled_at", nullable=True),
        sa.UniqueConstraint("owner", "idempotency_key", name="uq_study_owner_idempotency_key"),
    )
    with op.batch_alter_table("run") as batch:
        batch.add_column(sa.Column("spec_hash", sa.String(64), nullable=True))
        batch.add_column(sa.Column("study_id", sa.String(40), nullable=True))
        batch.add_column(sa.Column("continues", sa.String(40), nullable=True))
        batch.create_foreign_key("fk_run_study_id", "study", ["study_id"], ["id"], ondelete="SET NULL")
        batch.create_index("ix_run_spec_hash", ["spec_hash"])
        batch.create_index("ix_run_study_id", ["study_id"])
    _create_cells()


def _create_cells() -> None:
    op.create_table(
        "study_cell",
        sa.Column("study_id", sa.String(40), sa.ForeignKey("study.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        _json("labels"),
        _json("parameters"),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("rung", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(40), sa.ForeignKey("run.id"), nullable=False),
        sa.Column("evaluation_id", sa.String(40), sa.ForeignKey("run.id"), nullable=True),
    )
    op.create_index("ix_study_cell_run_id", "study_cell", ["run_id"])
    op.create_index("ix_study_cell_evaluation_id", "study_cell", ["evaluation_id"])


def downgrade() -> None:
    op.drop_table("study_cell")
    with op.batch_alter_table("run") as batch:
        batch.drop_index("ix_run_study_id")
        batch.drop_index("ix_run_spec_hash")
        batch.drop_constraint("fk_run_study_id", type_="foreignkey")
        for name in ("continues", "study_id", "spec_hash"):
            batch.drop_column(name)
    op.drop_table("study")
