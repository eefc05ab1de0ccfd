"""Tags of documents: what is added, removed, counted and found, and which items a conversion keeps."""

from pathlib import Path

import pytest
from sqlalchemy import select

from lcl_core.common.errors import UserError
from lcl_core.db import datasets, registry
from lcl_core.db.models import Dataset, DatasetTag
from lcl_core.specs.parsing import parse_spec

ITEMS = [f"interleaved.jsonl:{line}" for line in range(1, 6)]


@pytest.fixture
def mine(database, tmp_path):
    with database.session() as session:
        row = datasets.register_dataset(session, "mine", tmp_path, [tmp_path], "ada")
        datasets.record_version(session, row, "a" * 64, None)
    return "mine"


def change(database, items, add=None, remove=None):
    with database.session() as session:
        return datasets.change_tags(session, session.get_one(Dataset, "mine"), items, add or [], remove or [])


def tags(database, items):
    with database.reading() as session:
        return datasets.item_tags(session, session.get_one(Dataset, "mine"), items)


def selected(database, **spec):
    with database.reading() as session:
        parsed = parse_spec("convert", {"dataset": "mine", "name": "made", **spec})
        return datasets.select_items(session, parsed)


def test_tags_are_added_and_removed_and_the_same_change_again_is_none(database, mine):
    assert change(database, ITEMS[:3], ["blurred", "a"]) == 3
    assert change(database, ITEMS[:3], ["blurred"]) == 0
    assert change(database, ITEMS[1:4], ["new"], ["a"]) == 3
    assert tags(database, ITEMS[:4]) == {
        ITEMS[0]: ["a", "blurred"], ITEMS[1]: ["blurred", "new"], ITEMS[2]: ["blurred", "new"], ITEMS[3]: ["new"],
    }  # fmt: skip
    with database.reading() as session:
        row = session.get_one(Dataset, mine)
        assert datasets.count_tags(session, row) == {"a": 1, "blurred": 3, "new": 3}
        assert datasets.tagged_items(session, row, ["a", "new"]) == ITEMS[:4]


def test_a_new_version_has_no_tags_and_a_deleted_dataset_leaves_none(database, mine):
    change(database, ITEMS, ["blurred"])
    with database.session() as session:
        datasets.record_version(session, session.get_one(Dataset, mine), "b" * 64, None)
    assert tags(database, ITEMS[:1]) == {ITEMS[0]: []}
    with database.session() as session:
        session.delete(session.get_one(Dataset, mine))
    with database.reading() as session:
        assert session.scalars(select(DatasetTag)).all() == []


def test_a_conversion_keeps_what_its_tags_say(database, mine):
    change(database, ITEMS[:3], ["good"])
    change(database, ITEMS[2:4], ["blurred"])
    assert selected(database) is None
    assert selected(database, without_tags=["blurred"]) == {"only": None, "without": ITEMS[2:4]}
    assert selected(database, only_tags=["good"]) == {"only": ITEMS[:3], "without": []}
    both = selected(database, only_tags=["good"], without_tags=["blurred"])
    assert both == {"only": ITEMS[:3], "without": ITEMS[2:4]}
    with database.reading() as session:
        spec = parse_spec("convert", {"dataset": mine, "name": "made", "without_tags": ["blurred"]})
        assert registry.resolve_inputs(session, spec, Path("/"), [Path("/")]).items == selected(
            database, without_tags=["blurred"]
        )


@pytest.mark.parametrize(
    ("known", "tag", "hint"),
    [([], "blurred", "it has no tags yet"), (["blurred"], "blured", "did you mean 'blurred'?"),
     (["x", "y"], "blurred", "its tags are: x, y")],
)  # fmt: skip
def test_a_tag_that_nothing_has_is_an_error_with_the_way_out(database, mine, known, tag, hint):
    if known:
        change(database, ITEMS, known)
    with pytest.raises(UserError, match="no item of dataset 'mine' has the tag") as caught:
        selected(database, without_tags=[tag])
    assert (caught.value.code, caught.value.field) == ("invalid_value", "without_tags.0")
    assert hint in caught.value.message
