"""An encoder's identity: one hash over all files that decide its vectors, and of each collection that of its encoder.

Where the files' hashes are in the row it is made here; else when the service starts, from the disk.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

INDEX = "ix_encoder_identity"
SUFFIXES = (".json", ".safetensors", ".txt")


def upgrade() -> None:
    with op.batch_alter_table("encoder") as batch:
        batch.add_column(sa.Column("identity", sa.String(64), nullable=True))
    with op.batch_alter_table("collection") as batch:
        batch.add_column(sa.Column("encoder_identity", sa.String(64), nullable=True))
    op.create_index(INDEX, "encoder", ["identity"])
    connection = op.get_bind()
    setting = sa.text("UPDATE encoder SET identity = :identity WHERE id = :id")
    for row in connection.execute(sa.text("SELECT id, info FROM encoder")).mappings().all():
        if identity := _identity_in(row["info"]):
            connection.execute(setting, {"id": row["id"], "identity": identity})
    op.execute(
        "UPDATE collection SET encoder_identity = "
        "(SELECT encoder.identity FROM encoder WHERE encoder.id = collection.encoder_id)"
    )


def downgrade() -> None:
    op.drop_index(INDEX, "encoder")
    with op.batch_alter_table("encoder") as batch:
        batch.drop_column("identity")
    with op.batch_alter_table("collection") as batch:
        batch.drop_column("encoder_identity")


def _identity_in(info: Any) -> str | None:
    """As lcl_core.encoders.file_hashes made it when this was written; None where the row does not name the files."""
    given = json.loads(info) if isinstance(info, str) else info  # SQLite gives the text, PostgreSQL the object
    files = given.get("files") if isinstance(given, dict) else None
    if not isinstance(files, dict) or not files:
        return None
    deciding = sorted((name, digest) for name, digest in files.items() if name.endswith(SUFFIXES))
    lines = (f"{name}\0{digest}\n" for name, digest in deciding)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
