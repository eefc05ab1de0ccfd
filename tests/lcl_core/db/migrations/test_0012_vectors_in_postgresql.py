"""Collections of before are searched in their files; going back, all are, and their tables are gone."""

from __future__ import annotations

from sqlalchemy import inspect, text

from lcl_core.db import registry
from lcl_core.db.models import CollectionRow
from lcl_core.db.session import Database, now


def test_back_and_forth(database: Database) -> None:
    with database.session() as session:
        facts = {"encoder_hash": "e" * 64, "owner": "ada", "images": 2, "texts": 0, "dim": 4, "vectors": "vec_1"}
        session.add(CollectionRow(id="col_1", name="few", path="collections/col_1", created_at=now(session), **facts))
        session.execute(text("CREATE TABLE vec_1_images (row_number integer)"))
    database.downgrade("0011")
    assert "vec_1_images" not in inspect(database.engine).get_table_names()
    assert "vectors" not in {column["name"] for column in inspect(database.engine).get_columns("collection")}
    database.migrate()
    with database.reading() as session:
        row = registry.get_collection(session, "few")
        assert (row.vectors, row.images) == (None, 2)
