"""The table of tags comes and goes; datasets stay."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect

from lcl_core.db import datasets
from lcl_core.db.session import Database


def test_the_table_comes_and_goes(database: Database, tmp_path: Path) -> None:
    with database.session() as session:
        row = datasets.register_dataset(session, "mine", tmp_path, [tmp_path], "ada")
        datasets.record_version(session, row, "a" * 64, None)
        datasets.change_tags(session, row, ["interleaved.jsonl:1"], ["blurred"], [])
    database.downgrade("0025")
    assert "dataset_tag" not in inspect(database.engine).get_table_names()
    database.migrate()
    with database.reading() as session:
        assert datasets.count_tags(session, datasets.get_dataset(session, "mine")) == {}
