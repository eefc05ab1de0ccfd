"""Collections whose vectors are in tables too. The tables are made when the first such collection is, not here."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("collection") as batch:
        batch.add_column(sa.Column("vectors", sa.String(40), nullable=True))


def downgrade() -> None:
    """The collections stay, searched in their files; so does the extension, which others may use."""
    named = sa.text("SELECT vectors FROM collection WHERE vectors IS NOT NULL")
    for name in op.get_bind().execute(named).scalars().all():
        for target in ("images", "texts"):
            op.drop_table(f"{name}_{target}", if_exists=True)
    with op.batch_alter_table("collection") as batch:
        batch.drop_column("vectors")
