"""Which keys come from the settings: those that are no longer configured are revoked by the next start.

Of older rows the audit log says it; the prefix ``configured`` is that of keys that people chose.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("api_key") as batch:
        batch.add_column(sa.Column("configured", sa.Boolean(), nullable=False, server_default=sa.false()))
    keys = sa.table("api_key", sa.column("prefix", sa.String), sa.column("configured", sa.Boolean))
    audit = sa.table("audit", sa.column("action", sa.String), sa.column("object", sa.String))
    noted = sa.select(audit.c.object).where(audit.c.action == "keys.configure")
    from_settings = sa.or_(keys.c.prefix == "configured", keys.c.prefix.in_(noted))
    op.execute(keys.update().where(from_settings).values(configured=True))


def downgrade() -> None:
    with op.batch_alter_table("api_key") as batch:
        batch.drop_column("configured")
