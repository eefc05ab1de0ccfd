"""Changes of a collection as rows: what is refused, what a reader sees, and what an index run folds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lcl_core.collections.changes import ChangeRecord, DeltaSnapshot
from lcl_core.collections.file_format import stable_hash64
from lcl_core.collections.writer import CollectionItem
from lcl_core.common.errors import UserError
from lcl_core.db import collections as db_collections
from lcl_core.db import complete_run
from lcl_core.db.collections import CollectionRef, CollectionReplaced, ItemAddition
from lcl_core.db.models import CollectionRow
from lcl_core.db.session import now
from lcl_core.specs.parsing import parse_spec
from tests.lcl_core.collections.building import build_collection

ENCODER, DIM = "e" * 64, 4


def identity(name):
    return f"img_{stable_hash64(name):016x}"


IN_DIRECTORY = ("a.png", "b.png")
OPENED = CollectionRef("col_1", "collections/col_1", {identity(name) for name in IN_DIRECTORY}.__contains__)


def vector(name):
    return np.random.default_rng(stable_hash64(name)).normal(size=DIM).astype("<f4").tobytes()


def picture(name, note=""):
    record = {"id": identity(name), "image": name, "captions": [note] if note else [], "labels": {}, "split": ""}
    record |= {"source": "", "media_type": "image/png"}
    return ItemAddition(
        ChangeRecord(0, identity(name), record, vector(name), vector(note) if note else b""), name.encode()
    )


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def build(place, names):
    items = [CollectionItem(name, name.encode(), "image/png") for name in names]
    build_collection(place, items, np.eye(len(names), DIM), {}, name="few", encoder_hash=ENCODER)


@pytest.fixture
def made(database, home):
    """With a collection of two images."""
    build(home / "collections" / "col_1", IN_DIRECTORY)
    with database.session() as session:
        facts = {
            "encoder_hash": ENCODER,
            "encoder_identity": ENCODER,
            "owner": "ada",
            "images": 2,
            "texts": 0,
            "dim": DIM,
        }
        session.add(CollectionRow(id="col_1", name="few", path=OPENED.path, created_at=now(session), **facts))
    return database


def add(database, *pictures, **how):
    with database.session() as session:
        return db_collections.add_items(session, OPENED, pictures, **{"encoder_hash": ENCODER, **how})[0]


def remove(database, name):
    with database.session() as session:
        db_collections.remove_item(session, OPENED, identity(name))


def row_of(database):
    with database.reading() as session:
        return session.get_one(CollectionRow, "col_1")


def seen(database, number=0, path=OPENED.path):
    with database.reading() as session:
        return db_collections.changes_since(session, "col_1", path, number)


def code_of(do, *given, **how):
    with pytest.raises(UserError) as caught:
        do(*given, **how)
    return caught.value.code


def test_a_reader_is_told_what_came_since(made):
    assert add(made, picture("c.png", "a cat"), picture("d.png")) == [identity("c.png"), identity("d.png")]
    first = seen(made)
    assert [(change.number, change.item) for change in first] == [(1, identity("c.png")), (2, identity("d.png"))]
    assert (first[0].record or {})["captions"] == ["a cat"]
    assert (first[0].vector, first[0].text_vectors) == (vector("c.png"), vector("a cat"))
    remove(made, "a.png")
    remove(made, "c.png")
    assert seen(made, 2) == [ChangeRecord(3, identity("a.png")), ChangeRecord(4, identity("c.png"))]
    assert [change.number for change in seen(made)] == [2, 3, 4], "of an image only the last counts"
    assert (row_of(made).changes, row_of(made).images) == (4, 2)
    with made.reading() as session:
        assert db_collections.item_image(session, "col_1", identity("d.png")) == b"d.png"
        assert db_collections.item_image(session, "col_1", identity("c.png")) is None


def test_a_name_that_is_there_is_not_replaced_in_silence(made):
    add(made, picture("c.png"))
    for name in ("a.png", "c.png"):
        with pytest.raises(UserError) as caught:
            add(made, picture("new.png"), picture(name, "another"))
        assert (caught.value.code, caught.value.field) == ("conflict", "items.1.name")
        assert name in caught.value.message
    assert (row_of(made).changes, row_of(made).images) == (1, 3), "nothing of a refused call is kept"
    add(made, picture("a.png", "again"), picture("new.png"), replace=True)
    assert (row_of(made).changes, row_of(made).images) == (3, 4)
    remove(made, "a.png")
    add(made, picture("a.png"))
    assert row_of(made).images == 4


def test_what_does_not_belong_is_refused(made):
    assert code_of(add, made, picture("c.png"), encoder_hash="f" * 64) == "encoder_mismatch"
    assert code_of(remove, made, "never.png") == "not_found"
    remove(made, "a.png")
    assert code_of(remove, made, "a.png") == "not_found"
    with made.session() as session:
        absent = CollectionRef("col_absent", "x", OPENED.holds)
        assert code_of(db_collections.remove_item, session, absent, identity("a.png")) == "not_found"
    assert row_of(made).changes == 1


def test_a_repeated_request_changes_nothing(made):
    ids = add(made, picture("c.png"), picture("d.png"))
    assert add(made, picture("c.png"), picture("d.png")) == ids
    assert row_of(made).changes == 2
    assert code_of(add, made, picture("c.png", "another caption")) == "conflict"


def test_who_has_an_outdated_directory_open_is_told(made):
    with made.session() as session:
        session.get_one(CollectionRow, "col_1").path = "collections/col_2"
    for act in (lambda: add(made, picture("c.png")), lambda: remove(made, "a.png"), lambda: seen(made)):
        with pytest.raises(CollectionReplaced):
            act()
    assert row_of(made).changes == 0


def test_a_change_that_keeps_its_image_stores_no_bytes_of_it(made, tmp_path):
    add(made, picture("c.png"))
    kept = replace(picture("a.png", "a cat"), data=None)
    with made.session() as session:
        db_collections.replace_records(session, OPENED, [kept, picture("c.png")], row_of(made).changes)
    remove(made, "b.png")
    assert [(change.item, change.keeps_image) for change in seen(made)] == [
        (identity("a.png"), True),
        (identity("c.png"), False),
        (identity("b.png"), False),
    ]
    with made.reading() as session:
        assert db_collections.item_image(session, "col_1", identity("a.png")) is None
        db_collections.snapshot_changes(session, session.get_one(CollectionRow, "col_1"), tmp_path / "handed")
    handed = DeltaSnapshot(tmp_path / "handed")
    assert handed.changes == seen(made)
    assert handed.image(identity("c.png")) == b"c.png"


class Fold:
    """An index run that adds to the collection, from its claim to its end."""

    def __init__(self, database, home, queue, claim):
        self.database, self.home = database, home
        spec = {"encoder": "any", "dataset": None, "collection": "few", "mode": "add"}
        self.run_dir = home / "runs" / queue("index", spec)
        self.run_dir.mkdir(parents=True)
        self.claim = claim()
        handed = db_collections.prepare_collection_snapshots(
            database, parse_spec("index", spec), self.run_dir / "changes", home
        )
        self.handed = handed["few"]

    def end(self, names):
        """With a directory that holds these."""
        build(self.run_dir / "artifacts" / "collection", names)
        facts = {"path": "artifacts/collection", "encoder_hash": ENCODER, "images": len(names), "texts": 0, "dim": DIM}
        facts |= {"id": self.handed["id"], "base": self.handed["stored"], "through": self.handed["through"]}
        outcome = complete_run.RunSucceeded({"collection": facts})
        return complete_run.complete_run(self.database, self.claim, outcome, self.run_dir, self.home, 1.0, None)


@pytest.fixture
def begin(made, home, queue, claim):
    return lambda: Fold(made, home, queue, claim)


def test_a_fold_keeps_what_came_meanwhile(made, home, begin):
    add(made, picture("c.png"), picture("d.png", "first"))
    remove(made, "a.png")
    fold = begin()
    handed = DeltaSnapshot(Path(fold.handed["changes"]))
    assert [change.item for change in handed.changes] == [identity(name) for name in ("c.png", "d.png", "a.png")]
    assert handed.image(identity("d.png")) == b"d.png"
    add(made, picture("e.png"))
    add(made, picture("d.png", "second"), replace=True)
    remove(made, "b.png")
    assert fold.end(("b.png", "c.png", "d.png")) == "succeeded"
    row = row_of(made)
    assert (row.id, row.changes, row.images, row.owner) == ("col_1", 6, 3, "ada"), "c, d and e"
    assert row.path != OPENED.path
    assert (home / OPENED.path).is_dir(), "a database that is restored names it again"
    left = seen(made, path=row.path)
    assert [(change.number, change.item) for change in left] == [
        (4, identity("e.png")),
        (5, identity("d.png")),
        (6, identity("b.png")),
    ]
    assert (left[1].record or {})["captions"] == ["second"]
