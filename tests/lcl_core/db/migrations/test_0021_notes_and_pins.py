"""Notes and pins: rows that older versions insert beside the migration are not pinned."""

from __future__ import annotations

from sqlalchemy import inspect, text

from lcl_core.db.session import Database


def columns(database: Database, table: str) -> set[str]:
    return {column["name"] for column in inspect(database.engine).get_columns(table)}


def test_it_comes_and_goes(database: Database) -> None:
    database.downgrade("0020")
    assert "notes" not in columns(database, "run")
    assert "pinned" not in columns(database, "encoder")
    insert = text(
        "INSERT INTO encoder (id, name, path, hash, owner, info, created_at) "
        "VALUES (:id, 'old', 'encoders/old', 'ab', 'lcl', '{}', '2026-01-01 00:00:00')"
    )
    with database.writer.connect() as connection, connection.begin():
        connection.execute(insert, {"id": "enc_before"})
    database.migrate()
    with database.writer.connect() as connection, connection.begin():
        connection.execute(insert, {"id": "enc_after"})
        rows = connection.execute(text("SELECT id, pinned FROM encoder ORDER BY id")).tuples().all()
    assert [(row_id, bool(pinned)) for row_id, pinned in rows] == [("enc_after", False), ("enc_before", False)]
    assert "notes" in columns(database, "run")
