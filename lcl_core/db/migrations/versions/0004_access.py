"""Who did what, keys that are rotated with a grace, and an owner's runs by their index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# An owner with few runs among many: without these, the others' of that state or kind would all be looked at.
RUN_INDEXES = (["owner", "id"], ["owner", "state", "id"], ["owner", "kind", "id"])


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("prefix", sa.String(20), nullable=False),
        sa.Column("action", sa.String(60), nullable=False),
        sa.Column("object", sa.String(200), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_owner_id", "audit", ["owner", "id"])
    op.create_index("ix_audit_object_id", "audit", ["object", "id"])
    for columns in RUN_INDEXES:
        op.create_index(f"ix_run_{'_'.join(columns)}", "run", columns)
    with op.batch_alter_table("api_key") as batch:
        batch.add_column(sa.Column("previous_hash", sa.String(128), nullable=True))
        batch.add_column(sa.Column("previous_until", sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column("rotated_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("api_key") as batch:
        for name in ("rotated_at", "previous_until", "previous_hash"):
            batch.drop_column(name)
    for columns in RUN_INDEXES:
        op.drop_index(f"ix_run_{'_'.join(columns)}", "run")
    op.drop_table("audit")
