"""A collection with changes answers as one that was made anew of what it holds now."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lcl_core.collections import file_format, vector_index
from lcl_core.collections.changes import ChangeRecord, Delta
from lcl_core.collections.collection import Collection
from lcl_core.collections.file_format import stable_hash64
from lcl_core.collections.writer import CollectionItem
from lcl_core.common.errors import UserError
from tests.lcl_core.collections.building import build_collection

ENCODER, DIM = "e" * 64, 12
GROUPS, SPLITS = ("animals", "travel", "food", "tools"), ("train", "val")
WORDS = [f"word {number}" for number in range(30)]


def unit(seed):
    """f32 [DIM] of length 1, the same for the same words."""
    row = np.random.default_rng(stable_hash64(seed)).normal(size=DIM).astype(np.float32)
    return row / np.linalg.norm(row)


def item(name, version=0):
    """An image whose facts are a function of its name and version."""
    chance = random.Random(f"{name} {version}")
    labels = {"group": chance.choice(GROUPS), "version": str(version)} if chance.random() < 0.8 else {}
    captions = tuple(chance.sample(WORDS, chance.randrange(4)))
    return CollectionItem(name, name.encode(), "image/png", captions, labels, chance.choice(SPLITS), "made up")


def vector_of(new):
    return unit(f"{new.image} {new.captions}")


def identity(name):
    return f"img_{stable_hash64(name):016x}"


def addition(number, new):
    record = {"id": identity(new.image), "image": new.image, "captions": list(new.captions), "labels": new.labels}
    record |= {"split": new.split, "source": new.source, "media_type": new.media_type}
    texts = b"".join(unit(text).tobytes() for text in new.captions)
    return ChangeRecord(number, identity(new.image), record, vector_of(new).tobytes(), texts)


def build(place, items):
    vectors = np.stack([vector_of(new) for new in items]) if items else np.empty((0, DIM))
    build_collection(place, items, vectors, {word: unit(word) for word in WORDS}, name="it", encoder_hash=ENCODER)
    return Collection.open(place)


def changed(base, changes, steps=1):
    """With the changes, that came in so many steps."""
    overlay = Delta()
    for start in range(0, len(changes), max(1, len(changes) // steps)):
        overlay = overlay.with_changes(changes[start : start + max(1, len(changes) // steps)])
    return base.with_delta(overlay)


def check_alike(one, other, k, **how):
    """The same hits, as good at every place; a graph's scores are of half precision, so neighbours may swap."""
    for number in range(12):
        query = unit(f"query {number}")
        known = {hit.id: hit for hit in other.search(query, k=10_000, **how)}
        hits, expected = one.search(query, k=k, **how), list(known.values())[:k]
        assert len({hit.id for hit in hits}) == len(hits) == len(expected)
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=2e-3)
        for hit in hits:
            assert as_sets(hit.metadata) == as_sets(known[hit.id].metadata), how
            assert hit.score == pytest.approx(known[hit.id].score, abs=2e-3)


def as_sets(record):
    """The images of a text have no order."""
    return {**record, "items": sorted(record["items"])} if "items" in record else record


def a_history(count, names):
    """What a directory holds, the changes since, and what is there after them in the order it came."""
    chance = random.Random(count)
    base = [item(f"{number}.png") for number in range(names)]
    now = {new.image: new for new in base}
    changes = []
    for number in range(1, count + 1):
        name = f"{chance.randrange(names * 2)}.png"
        now.pop(name, None)
        if chance.random() < 0.4:
            changes.append(ChangeRecord(number, identity(name)))
        else:
            now[name] = item(name, number)
            changes.append(addition(number, now[name]))
    return base, changes, list(now.values())


FILTERS: list[dict[str, Any]] = [
    {},
    {"where": {"group": "animals"}},
    {"where": {"group": ["food", "tools"], "split": "val"}},
    {"where": {"version": "0"}},
]


@pytest.mark.parametrize("large", [False, True], ids=["exact", "graph"])
@pytest.mark.parametrize("target", ["images", "texts"])
def test_it_answers_as_one_made_anew(tmp_path, monkeypatch, large, target):
    base, changes, now = a_history(80, 60)
    anew = build(tmp_path / "anew", now)
    monkeypatch.setattr(vector_index, "EXACT_ROWS", 10 if large else 10**6)
    collection = changed(build(tmp_path / "base", base), changes, steps=5)
    assert bool(collection._files.graphs) == large
    for how in FILTERS:
        for k in (1, 5, 200):
            check_alike(collection, anew, k=k, target=target, **how)
    assert collection.count(target) == anew.count(target)
    assert sorted(collection.vectors(target)[0]) == sorted(anew.vectors(target)[0])


def test_pages_hold_each_once_and_in_their_order(tmp_path):
    base, changes, now = a_history(80, 60)
    collection = changed(build(tmp_path / "base", base), changes)
    assert [record["image"] for record in collection.items(0, 1000)] == [new.image for new in now]
    assert len(collection) == len(now)
    assert collection.items(50, 20) == collection.items(0, 1000)[50:70]
    assert collection.items(len(now)) == []
    mixed = [len(now) - 1, 0, len(now) - 2, 3]
    ids, vectors = collection.at("images", mixed)
    assert ids == [identity(now[place].image) for place in mixed]
    for place, row in zip(mixed, vectors, strict=True):
        assert np.array_equal(row, vector_of(now[place]))
        assert np.array_equal(row, collection.vector(identity(now[place].image)))
        assert collection.record("images", place) == collection.item(identity(now[place].image))
    words, rows = collection.vectors("texts")
    for identifier, row in zip(words, rows, strict=True):
        assert np.array_equal(collection.vector(identifier), row)
    texts = {collection.record("texts", place)["text"] for place in range(collection.count("texts"))}
    assert texts == {text for new in now for text in new.captions}


def test_an_image_that_is_kept_has_the_bytes_of_the_directory(tmp_path):
    names = ("kept.png", "replaced.png", "same.png")
    base = build(tmp_path / "base", [item(name) for name in names])
    changes = [addition(number, item(name, number)) for number, name in enumerate(names[:2], 1)]
    collection = changed(base, [replace(changes[0], keeps_image=True), changes[1]])
    assert [collection.has_image_bytes(identity(name)) for name in names] == [True, False, True]
    for name in ("kept.png", "same.png"):
        assert collection.image_bytes(identity(name)) == name.encode()
    with pytest.raises(UserError, match="holds no item"):
        collection.image_bytes(identity("replaced.png"))
    assert collection.item(identity("kept.png"))["labels"] == item("kept.png", 1).labels


def test_what_was_removed_is_not_found_by_any_way(tmp_path):
    alone = CollectionItem("alone.png", b"1", "image/png", ("word 0",), {"group": "rare"}, "test", "")
    base = build(tmp_path / "base", [alone, item("b.png")])
    collection = changed(base, [ChangeRecord(1, identity("alone.png")), ChangeRecord(2, identity("never.png"))])
    text = f"txt_{stable_hash64('word 0'):016x}"
    for ask in (collection.item, collection.image_bytes, collection.vector):
        with pytest.raises(UserError) as caught:
            ask(identity("alone.png"))
        assert caught.value.code == "not_found"
    with pytest.raises(UserError):
        collection.vector(text)
    assert base.item(identity("alone.png"))["image"] == "alone.png", "what others have open stays as it is"
    assert "rare" not in collection.label_values().get("group", [])
    assert collection.search(vector_of(alone), where={"group": "rare"}) == []


def test_labels_of_added_images_can_be_asked_for(tmp_path):
    base = build(tmp_path / "base", [CollectionItem("a.png", b"", "image/png", (), {"group": "food"}, "train", "")])
    new = CollectionItem("b.png", b"", "image/png", ("word 1",), {"colour": "red", "group": "tools"}, "train", "camera")
    collection = changed(base, [addition(1, new)])
    assert collection.label_values()["group"] == ["food", "tools"]
    assert collection.label_values()["colour"] == ["red"]
    assert [hit.metadata["image"] for hit in collection.search(unit("x"), where={"colour": "red"})] == ["b.png"]
    assert [hit.metadata["image"] for hit in collection.search(unit("x"), where={"group": "food"})] == ["a.png"]
    with pytest.raises(UserError, match="colour, group, source, split"):
        collection.search(unit("x"), where={"size": "1"})


def test_the_filter_comes_before_the_top_k_among_added_images(tmp_path):
    base = build(tmp_path / "base", [])
    news = [CollectionItem(f"{n}.png", b"", "image/png", (), {"n": str(n)}, "train", "") for n in range(20)]
    collection = changed(base, [addition(number, new) for number, new in enumerate(news, 1)])
    worst = collection.search(unit("q"), k=20)[-1]
    (hit,) = collection.search(unit("q"), k=1, where={"n": worst.metadata["labels"]["n"]})
    assert (hit.id, hit.score) == (worst.id, pytest.approx(worst.score))


def test_the_record_of_a_text_lists_some_of_its_images_and_counts_all(tmp_path):
    items = [CollectionItem(f"{row}.png", b"", "image/png", ("logo",)) for row in range(150)]
    vectors = np.ones((150, 4), np.float32)
    build_collection(tmp_path / "it", items, vectors, {"logo": vectors[0]}, name="it", encoder_hash="e" * 64)
    opened = Collection.open(tmp_path / "it")
    (hit,) = opened.search(vectors[0], target="texts")
    ids = [stored["id"] for stored in opened.items(0, 150)]
    assert (hit.metadata["items"], hit.metadata["item_count"]) == (ids[:100], 150)
    removed = [ChangeRecord(number, item) for number, item in enumerate(ids[:70], 1)]
    record = {"captions": ["logo", "new"], "labels": {}, "split": "", "source": "", "media_type": "image/png"}
    one = np.full(4, 0.5, "<f4").tobytes()
    added = [
        ChangeRecord(100 + row, item, {**record, "id": item, "image": f"new {row}"}, one, 2 * one)
        for row, item in ((row, file_format.item_id(f"new {row}")) for row in range(130))
    ]
    changed = opened.with_delta(Delta().with_changes([*removed, *added]))
    found = {hit.metadata["text"]: hit.metadata for hit in changed.search(vectors[0], target="texts")}
    news = [change.item for change in added]
    assert (found["logo"]["items"], found["logo"]["item_count"]) == ([*ids[70:], *news[:20]], 210)
    assert (found["new"]["items"], found["new"]["item_count"]) == (news[:100], 130)
