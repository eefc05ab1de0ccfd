"""Collections of before are there still, and have not changed."""

from __future__ import annotations

from sqlalchemy import inspect, text

from lcl_core.db import collections, registry
from lcl_core.db.models import CollectionRow
from lcl_core.db.session import Database, now


def test_a_collection_of_before_has_not_changed(database: Database) -> None:
    with database.session() as session:
        facts = {"encoder_hash": "e" * 64, "owner": "ada", "images": 2, "texts": 0, "dim": 4, "changes": 7}
        session.add(CollectionRow(id="col_1", name="few", path="collections/col_1", created_at=now(session), **facts))
    database.downgrade("0010")
    assert {"addition", "collection_change"}.isdisjoint(inspect(database.engine).get_table_names())
    with database.reading() as session:
        assert session.execute(text("SELECT name FROM collection")).scalar() == "few"
    database.migrate()
    with database.reading() as session:
        row = registry.get_collection(session, "few")
        assert (row.changes, row.images) == (0, 2)
        assert collections.changes_since(session, row.id, row.path, 0) == []
