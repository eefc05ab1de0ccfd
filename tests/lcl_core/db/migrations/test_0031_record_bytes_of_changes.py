"""Bytes of records: those of rows of before are counted, too."""

from __future__ import annotations

from sqlalchemy import inspect, text

from lcl_core.db.session import Database

RECORD = '{"id": "img_1", "captions": []}'


def columns(database: Database) -> set[str]:
    return {column["name"] for column in inspect(database.engine).get_columns("collection_change")}


def test_it_comes_and_goes(database: Database) -> None:
    database.downgrade("0030")
    assert "record_bytes" not in columns(database)
    with database.writer.connect() as connection, connection.begin():
        connection.execute(
            text(
                "INSERT INTO collection (id, name, path, encoder_hash, owner, images, texts, dim, changes, created_at) "
                "VALUES ('col_1', 'few', 'collections/col_1', 'ab', 'ada', 0, 0, 4, 1, '2026-01-01 00:00:00')"
            )
        )
        insert = "INSERT INTO collection_change (collection_id, item, number, record, vector) VALUES ('col_1', :item, "
        added = {"item": "img_1", "number": 1, "record": RECORD, "vector": b"0000"}
        connection.execute(text(insert + ":number, :record, :vector)"), added)
        connection.execute(text(insert + ":number, NULL, NULL)"), {"item": "img_2", "number": 2})
    database.migrate()
    with database.reading() as session:
        query = text("SELECT record_bytes FROM collection_change ORDER BY number")
        assert session.execute(query).scalars().all() == [len(RECORD), 0]
