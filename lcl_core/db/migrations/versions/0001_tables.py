"""All tables, as ``lcl_core.db.models`` has them until the first release."""

from __future__ import annotations

from alembic import op

from lcl_core.db.models import Base

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    Base.metadata.create_all(op.get_bind())


def downgrade() -> None:
    Base.metadata.drop_all(op.get_bind())
