"""The first tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _json(name: str, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON().with_variant(JSONB(), "postgresql"), nullable=nullable)


def _text(name: str, length: int | None = None, nullable: bool = False, **arguments: Any) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=nullable, **arguments)


def _integer(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False)


def _time(name: str, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _run_key(on_delete: str, **arguments: Any) -> sa.Column[str]:
    return sa.Column("run_id", sa.String(40), sa.ForeignKey("run.id", ondelete=on_delete), **arguments)


def upgrade() -> None:
    _create_run()
    _create_run_parts()
    _create_products()
    _create_people_and_workers()


def _create_run() -> None:
    op.create_table(
        "run",
        _text("id", 40, primary_key=True),
        _text("kind", 20),
        _text("name", 100, nullable=True),
        _json("spec", nullable=False),
        _text("owner", 100),
        _text("idempotency_key", 200, nullable=True),
        _text("body_hash", 64),
        _text("state", 20),
        _json("reason"),
        _json("progress"),
        _json("result"),
        _text("encoder_id", 40, nullable=True),
        _text("collection_id", 40, nullable=True),
        _integer("priority"),
        _integer("attempt"),
        _integer("max_attempts"),
        sa.Column("from_scratch", sa.Boolean(), nullable=False),
        sa.Column("ran_seconds", sa.Double(), nullable=False),
        _time("created_at"),
        _time("queued_at"),
        _time("started_at", nullable=True),
        _time("finished_at", nullable=True),
        _text("lease_token", 40, nullable=True),
        _text("lease_owner", 100, nullable=True),
        _time("lease_expires_at", nullable=True),
        sa.UniqueConstraint("owner", "idempotency_key", name="uq_run_owner_idempotency_key"),
    )
    op.create_index("ix_run_queue", "run", ["state", "priority", "queued_at", "id"])
    op.create_index("ix_run_state_id", "run", ["state", "id"])
    op.create_index("ix_run_kind_id", "run", ["kind", "id"])
    op.create_index("ix_run_encoder_id_kind", "run", ["encoder_id", "kind"])
    op.create_index("ix_run_lease_owner", "run", ["lease_owner"])


def _create_run_parts() -> None:
    op.create_table("run_tag", _text("tag", 100, primary_key=True), _run_key("CASCADE", primary_key=True))
    op.create_index("ix_run_tag_run_id", "run_tag", ["run_id"])
    op.create_table(
        "metric",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        _run_key("CASCADE", nullable=False),
        _text("phase", 60),
        _integer("step"),
        _json("values", nullable=False),
        sa.UniqueConstraint("run_id", "phase", "step", name="uq_metric_run_id_phase_step"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_metric_run_id_id", "metric", ["run_id", "id"])


def _create_products() -> None:
    op.create_table(
        "encoder",
        _text("id", 40, primary_key=True),
        _text("name", 100),
        _text("path"),
        _text("hash", 64),
        _text("owner", 100),
        _run_key("SET NULL", nullable=True),
        _json("info", nullable=False),
        _time("created_at"),
    )
    op.create_index("ix_encoder_name", "encoder", ["name"])
    op.create_index("ix_encoder_run_id", "encoder", ["run_id"])
    op.create_table(
        "collection",
        _text("id", 40, primary_key=True),
        _text("name", 100),
        _text("path"),
        sa.Column("encoder_id", sa.String(40), sa.ForeignKey("encoder.id", ondelete="SET NULL"), nullable=True),
        _text("encoder_hash", 64),
        _text("dataset", 100, nullable=True),
        _text("owner", 100),
        _run_key("SET NULL", nullable=True),
        _integer("images"),
        _integer("texts"),
        _integer("dim"),
        _time("created_at"),
        sa.UniqueConstraint("name", name="uq_collection_name"),
    )
    op.create_index("ix_collection_encoder_id", "collection", ["encoder_id"])
    op.create_index("ix_collection_run_id", "collection", ["run_id"])


def _create_people_and_workers() -> None:
    op.create_table(
        "dataset",
        _text("name", 100, primary_key=True),
        _text("path"),
        _text("owner", 100),
        _text("content_hash", 64, nullable=True),
        _json("statistics"),
        _time("created_at"),
    )
    op.create_table(
        "api_key",
        _text("prefix", 20, primary_key=True),
        _text("hash", 128),
        _text("role", 20),
        _text("owner", 100),
        _time("created_at"),
        _time("last_used", nullable=True),
        _time("expires", nullable=True),
    )
    op.create_table(
        "worker",
        _text("id", 100, primary_key=True),
        _text("host", 255),
        _integer("pid"),
        _integer("slots"),
        _json("devices", nullable=False),
        _time("started_at"),
        _time("seen_at"),
        _time("consumed_at", nullable=True),
    )


def downgrade() -> None:
    for table in ("worker", "api_key", "dataset", "collection", "encoder", "metric", "run_tag", "run"):
        op.drop_table(table)
