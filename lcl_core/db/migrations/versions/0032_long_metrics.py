"""Steps of metric lines above 2,147,483,647: jobs over a corpus count its records in them.

SQLite's integers have 64 bits already. PostgreSQL rewrites the table, and who reads or writes metric lines waits.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

INTEGER_MAX = 2**31 - 1


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("metric", "step", existing_type=sa.Integer(), type_=sa.BigInteger(), existing_nullable=False)


def downgrade() -> None:
    op.execute(f"DELETE FROM metric WHERE step > {INTEGER_MAX}")  # noqa: S608
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("metric", "step", existing_type=sa.BigInteger(), type_=sa.Integer(), existing_nullable=False)
