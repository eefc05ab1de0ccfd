"""Runs of several nodes reserve workers of one home; tasks of one worker for all; tags of older versions get an owner.

During a rolling upgrade a version from before revision 0010 inserts tags without their owner. The column's default is
empty, and on PostgreSQL, which alone serves several versions at once, a trigger writes the owner of the run instead.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from lcl_core.db.migrations.indexes import create_index_concurrently

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

INDEX = "ix_run_gangs"
TRIGGER = "run_tag_owner"
FILL_OWNER = """
CREATE FUNCTION run_tag_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.owner := coalesce((SELECT run.owner FROM run WHERE run.id = NEW.run_id), '');
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    create_index_concurrently(INDEX, "run", ["state"], where="nodes > 1")
    with op.batch_alter_table("worker") as batch:
        batch.add_column(sa.Column("home", sa.String(40), nullable=True))
    op.create_table(
        "task_lease",
        sa.Column("name", sa.String(60), primary_key=True),
        sa.Column("worker", sa.String(100), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
    with op.batch_alter_table("run_tag") as batch:
        batch.alter_column("owner", existing_type=sa.String(100), existing_nullable=False, server_default="")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(FILL_OWNER)
        op.execute(
            f"CREATE TRIGGER {TRIGGER} BEFORE INSERT ON run_tag FOR EACH ROW WHEN (NEW.owner = '') "
            f"EXECUTE FUNCTION {TRIGGER}()"
        )
    with op.batch_alter_table("run") as batch:
        batch.add_column(sa.Column("reserved_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("run") as batch:
        batch.drop_column("reserved_at")
    op.drop_index(INDEX, "run")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"DROP TRIGGER {TRIGGER} ON run_tag")
        op.execute(f"DROP FUNCTION {TRIGGER}()")
    with op.batch_alter_table("run_tag") as batch:
        batch.alter_column("owner", existing_type=sa.String(100), existing_nullable=False, server_default=None)
    op.drop_table("task_lease")
    with op.batch_alter_table("worker") as batch:
        batch.drop_column("home")
