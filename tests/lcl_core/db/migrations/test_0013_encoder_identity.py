"""Encoders and collections of before: known by all files where the row names them, else from the disk at the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, text

from lcl_core.db import registry
from lcl_core.db.models import CollectionRow, EncoderRow
from lcl_core.db.session import Database, now
from lcl_core.encoders.file_hashes import identity_hash, sha256_file

FILES = {"model.safetensors": "a" * 64, "tokenizer.json": "b" * 64, "README.md": "c" * 64}


def furnish(database: Database, **infos: dict[str, Any]) -> None:
    """An encoder each with a collection of the same name."""
    with database.session() as session:
        moment = now(session)
        for name, info in infos.items():
            facts = {"owner": "ada", "created_at": moment, "name": name}
            digest = info.pop("hash", "a" * 64)
            row = EncoderRow(id=f"enc_{name}", path=f"encoders/enc_{name}", hash=digest, info=info, **facts)
            session.add(row)
            session.flush()
            sizes = {"images": 0, "texts": 0, "dim": 4, "encoder_hash": digest, "encoder_id": row.id}
            session.add(CollectionRow(id=f"col_{name}", path=f"collections/col_{name}", **sizes, **facts))


def identities(database: Database) -> dict[str, tuple[str | None, str | None]]:
    """By name, the encoder's and its collection's."""
    with database.reading() as session:
        return {
            row.name: (row.identity, session.get_one(CollectionRow, f"col_{row.name}").encoder_identity)
            for row in registry.list_encoders(session)
        }


def test_back_and_forth(database: Database) -> None:
    furnish(database, named={"files": FILES, "parameters": 5}, nameless={"parameters": 7}, odd={"files": []})
    database.downgrade("0012")
    columns = {column["name"] for column in inspect(database.engine).get_columns("encoder")}
    assert "identity" not in columns
    with database.reading() as session:
        info = session.execute(text("SELECT info FROM encoder WHERE id = 'enc_named'")).scalar()
        assert (json.loads(info) if isinstance(info, str) else info)["files"] == FILES
    database.migrate()
    known = identity_hash(FILES)
    assert identities(database) == {"named": (known, known), "nameless": (None, None), "odd": (None, None)}


def test_what_lies_on_the_disk_is_completed_once(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "encoders" / "enc_there"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (folder / name).write_text(name)
    other = tmp_path / "encoders" / "enc_other"
    other.mkdir()
    (other / "model.safetensors").write_text("of another encoder")
    furnish(database, there={"hash": sha256_file(folder / "model.safetensors")}, gone={}, other={})
    assert registry.has_missing_identities(database)
    assert registry.fill_missing_identities(database, tmp_path) == 1
    files = {path.name: sha256_file(path) for path in folder.iterdir()}
    known = identity_hash(files)
    assert identities(database) == {"there": (known, known), "gone": (None, None), "other": (None, None)}
    with database.reading() as session:
        assert registry.get_encoder(session, "there").info["files"] == files
    assert registry.fill_missing_identities(database, tmp_path) == 0
