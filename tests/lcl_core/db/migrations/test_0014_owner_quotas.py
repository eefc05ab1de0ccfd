"""What owners keep is counted from this version on; taking it back loses the counts alone."""

from __future__ import annotations

from sqlalchemy import inspect

from lcl_core.db import quotas
from lcl_core.db.session import Database


def test_counts_begin_empty_and_go_with_the_table(database: Database) -> None:
    with database.session() as session:
        quotas.record_bytes(session, "encoders/enc_1", "ada", 5)
        assert quotas.owner_bytes(session, "ada") == 5
    database.downgrade("0012")
    assert "stored_bytes" not in inspect(database.engine).get_table_names()
    database.migrate()
    with database.reading() as session:
        assert quotas.owner_bytes(session, "ada") == 0
