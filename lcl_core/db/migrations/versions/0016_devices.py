"""GPUs that runs need, workers have, and leases bind."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    with op.batch_alter_table("run") as batch:
        batch.add_column(sa.Column("gpus", sa.Integer(), nullable=False, server_default="1"))
    run = sa.table("run", sa.column("kind"), sa.column("resource"), sa.column("spec", _JSON), sa.column("gpus"))
    processes = run.c.spec["engine"]["processes"].as_integer()
    op.execute(run.update().where(run.c.kind == "pretrain", processes > 1).values(gpus=processes))
    op.execute(run.update().where(run.c.resource == "cpu").values(gpus=0))
    with op.batch_alter_table("worker") as batch:  # a worker that is alive names its devices at its next start
        batch.add_column(sa.Column("gpu_ids", _JSON, nullable=False, server_default=sa.text("'[]'")))
    op.create_table(
        "device",
        sa.Column("id", sa.String(100), primary_key=True),
        sa.Column("run_id", sa.String(40), nullable=True),
        sa.Column("worker", sa.String(100), nullable=True),
        sa.Column("token", sa.String(40), nullable=True),
        sa.Column("serving_until", sa.DateTime(timezone=True), nullable=True),
    )


def downgrade() -> None:
    op.drop_table("device")
    with op.batch_alter_table("worker") as batch:
        batch.drop_column("gpu_ids")
    with op.batch_alter_table("run") as batch:
        batch.drop_column("gpus")
