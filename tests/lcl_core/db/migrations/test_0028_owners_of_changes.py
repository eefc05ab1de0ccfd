"""Owners of changes: rows of before are charged to nobody."""

from __future__ import annotations

from sqlalchemy import inspect, text

from lcl_core.db.session import Database


def columns(database: Database) -> set[str]:
    return {column["name"] for column in inspect(database.engine).get_columns("collection_change")}


def test_it_comes_and_goes(database: Database) -> None:
    database.downgrade("0027")
    assert not {"owner", "charged_bytes"} & columns(database)
    with database.writer.connect() as connection, connection.begin():
        connection.execute(
            text(
                "INSERT INTO collection (id, name, path, encoder_hash, owner, images, texts, dim, changes, created_at) "
                "VALUES ('col_1', 'few', 'collections/col_1', 'ab', 'ada', 0, 0, 4, 1, '2026-01-01 00:00:00')"
            )
        )
        connection.execute(
            text("INSERT INTO collection_change (collection_id, item, number) VALUES ('col_1', 'img_1', 1)")
        )
    database.migrate()
    with database.reading() as session:
        assert session.execute(text("SELECT owner, charged_bytes FROM collection_change")).tuples().all() == [(None, 0)]
