"""Steps of metric lines above 2,147,483,647, as jobs over a corpus have, and up to where the lines are stored.

SQLite's integers have 64 bits already. PostgreSQL rewrites the table, in a transaction of its own: who reads or writes
metric lines waits, and nobody else.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

INTEGER_MAX = 2**31 - 1


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _alter_step(sa.Integer(), sa.BigInteger())
        with op.get_context().autocommit_block():
            pass  # commits, so that the table of runs is not locked while this one is rewritten
    with op.batch_alter_table("run") as batch:
        batch.add_column(sa.Column("metrics_marks", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=True))


def downgrade() -> None:
    op.execute(f"DELETE FROM metric WHERE step > {INTEGER_MAX}")  # noqa: S608
    if op.get_bind().dialect.name == "postgresql":
        _alter_step(sa.BigInteger(), sa.Integer())
    with op.batch_alter_table("run") as batch:
        batch.drop_column("metrics_marks")


def _alter_step(before: sa.types.TypeEngine[int], after: sa.types.TypeEngine[int]) -> None:
    op.alter_column("metric", "step", existing_type=before, type_=after, existing_nullable=False)
