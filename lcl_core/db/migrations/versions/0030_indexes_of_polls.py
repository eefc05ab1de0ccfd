"""Indexes of what workers query every few seconds, and of the rows whose path begins with some text.

The cost of these queries was that of everything there ever was: of folders in the artifact store, of charged folders,
of ended runs.
"""

from __future__ import annotations

from alembic import op

from lcl_core.db.migrations.indexes import create_index_concurrently

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

# PostgreSQL's collations sort some letters before punctuation: its primary key does not find what begins with a text
PREFIXES = {"ix_deposit_path": "deposit", "ix_stored_bytes_path": "stored_bytes"}


def upgrade() -> None:
    create_index_concurrently("ix_run_unthinned", "run", ["finished_at"], where="NOT metrics_thinned")
    create_index_concurrently("ix_deposit_pending", "deposit", ["holder", "next_at"], where="pending IS NOT NULL")
    for name, table in PREFIXES.items():
        create_index_concurrently(name, table, ["path"], operators={"path": "varchar_pattern_ops"})
    op.drop_index("ix_deposit_holder_next_at", "deposit")


def downgrade() -> None:
    op.create_index("ix_deposit_holder_next_at", "deposit", ["holder", "next_at"])
    for name, table in PREFIXES.items():
        op.drop_index(name, table)
    op.drop_index("ix_deposit_pending", "deposit")
    op.drop_index("ix_run_unthinned", "run")
