"""Full-text search of captions, and searches by words of collections with and without changes."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from lcl_core.collections import full_text
from lcl_core.collections.changes import ChangeRecord, Delta
from lcl_core.collections.collection import FUSED_HITS, Collection
from lcl_core.collections.file_format import stable_hash64
from lcl_core.collections.full_text import FullTextIndex, fuse_ranks
from lcl_core.collections.writer import CollectionItem
from lcl_core.common.errors import UserError
from tests.lcl_core.collections.building import build_collection

DIM = 4
TOP = 2**63 - 1


def axis(number):
    return np.eye(DIM, dtype=np.float32)[number]


def image(name, *captions, kind="animal"):
    return CollectionItem(name, name.encode(), "image/png", captions, {"kind": kind}, "train", "drawn")


# the encoder takes the dog for a chestnut: its vector is that of the nuts
ITEMS = [
    image("dog", "a brown dog"),
    image("puppies", "two dogs at play", "puppies"),
    image("chestnut", "a brown chestnut", kind="plant"),
    image("walnut", "a walnut", kind="plant"),
    image("cat", "a cat"),
]
VECTORS = np.stack([axis(1), axis(0) + axis(1), axis(0), axis(0) + 0.1 * axis(2), axis(3)])


@pytest.fixture
def collection(tmp_path):
    texts = {text: axis(0) for item in ITEMS for text in item.captions}
    build_collection(tmp_path / "few", ITEMS, VECTORS, texts, name="few", encoder_hash="e" * 64)
    return Collection.open(tmp_path / "few")


def names(hits):
    return [hit.metadata["image"] for hit in hits]


@pytest.fixture
def made(tmp_path):
    """Makes the index of texts by their keys."""

    def make(texts):
        full_text.write_index(tmp_path / "captions.sqlite", texts)
        return FullTextIndex(tmp_path / "captions.sqlite", len(texts))

    return make


def search(index, query):
    return [match for page in index.search(query) for match in page]


def change(number, name, *captions, vector=None):
    """An image that is added, or without captions removed."""
    item = f"img_{stable_hash64(name):016x}"
    if not captions:
        return ChangeRecord(number, item)
    record = {"id": item, "image": name, "captions": list(captions), "labels": {"kind": "animal"}}
    record |= {"split": "train", "source": "drawn", "media_type": "image/png"}
    vector = axis(2) if vector is None else vector
    return ChangeRecord(number, item, record, vector.tobytes(), np.stack([vector] * len(captions)).tobytes())


def test_texts_are_found_by_words_whatever_their_case_accents_and_english_endings(made):
    index = made([(-(2**63), ""), (0, "a cat"), (7, "Two Dogs at play"), (TOP, "a crème brûlée")])
    assert [key for key, _ in search(index, "dog")] == [7]
    assert [key for key, _ in search(index, "PLAYING")] == [7]
    assert [key for key, _ in search(index, "creme")] == [TOP]
    assert [key for key, _ in search(index, "cat, dog!")] == [0, 7]  # the shorter text first
    assert search(index, "horse") == search(index, '" OR *') == search(index, "") == []


def decomposed(text):
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(
    ("query", "found", "other"),
    [
        ("कुत्ता", "एक कुत्ता और बिल्ली", "कुआँ ताला तुला"),  # without its marks a word is a few letters
        ("ที่นอน", "แมว กับ ที่นอน", "น ท อ"),
        ("résumé", decomposed("un résumé"), "sume re"),
        (decomposed("résumé"), "un résumé", "sume re"),
        ("resume", decomposed("un résumé"), "sume re"),
        ("강아지", decomposed("한국어 강아지"), "강 아 지"),
        (decomposed("강아지"), "한국어 강아지", "강 아 지"),
        ("ガラス", decomposed("赤い ガラス"), "カラス"),
        ("می‌خواهم", "من می‌خواهم", "می"),  # with a joiner
        ("❤️ cat", "a cat", "a ❤️"),
    ],
)
def test_marks_are_parts_of_words_and_decomposed_words_are_the_same(made, query, found, other):
    assert [key for key, _ in search(made([(1, found), (2, other)]), query)] == [1]


def test_more_and_rarer_words_rank_higher(made):
    index = made([(1, "red car"), (2, "red bus"), (3, "red fire truck"), (4, "red red red sky"), (5, "sea")])
    found = search(index, "red fire truck")
    assert found[0][0] == 3
    assert {key for key, _ in found} == {1, 2, 3, 4}
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_a_word_of_many_texts_does_not_count_beside_a_rare_one(made, monkeypatch):
    monkeypatch.setattr(full_text, "_MIN_COMMON", 2)
    index = made([(number, f"a thing of kind {number}") for number in range(40)])
    assert [key for key, _ in search(index, "a thing 7")] == [7]
    assert len(search(index, "a thing")) == 40


def test_a_text_is_added_once(made):
    index = made([(1, "dog")])
    index.add({2: "a dog"})
    index.add({2: "a dog"})
    assert [key for key, _ in search(index, "dog")] == [1, 2]


def test_ranks_are_fused_and_equal_scores_have_the_same_rank():
    near = {"a": 0.9, "b": 0.8, "c": 0.7}
    # d is as good by words as c, so 1/61 as a, which the first ranking has
    assert fuse_ranks(near, {"c": 5.0, "d": 5.0}) == ["c", "a", "d", "b"]
    assert fuse_ranks(near, {}) == ["a", "b", "c"]


def test_an_image_whose_text_lacks_a_word_gets_half_as_much_by_its_words():
    near = {**{str(at): -at for at in range(20)}, "police": -30.0, "red": -31.0}
    matching = {"police": 5.0, "red": 4.0}
    assert fuse_ranks(near, matching)[:2] == ["police", "red"]
    assert fuse_ranks(near, matching, {"police"})[:2] == ["red", "police"]
    assert fuse_ranks(near, matching, {"police", "red"})[:2] == ["police", "red"]
    assert fuse_ranks({"a": 0.9}, {"b": 5.0}, {"b"}) == ["a", "b"]


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("red car", {2, 3}),
        ("car", set()),
        ("Red CARS!", {2, 3}),
        ("red zeppelin", set()),
        ("zeppelin", set()),
        ("", set()),
        ("red sea car", {1, 2, 3, 4}),
    ],
)
def test_texts_that_lack_a_word_that_any_text_has(made, query, keys):
    index = made([(1, "a red car"), (2, "police car"), (3, "red heart"), (4, "the sea")])
    assert index.lacking_a_word(query, [key for key, _ in search(index, query)]) == keys


def test_a_narrow_filter_finds_images_behind_very_many_better_matches(tmp_path, monkeypatch):
    monkeypatch.setattr(full_text, "PAGE", 2)
    dogs = [image(f"dog {number}", "dog" + " big" * number) for number in range(9)]
    items = [
        *dogs,
        image("rose", "a rose that a dog has found in the garden", kind="plant"),
        image("oak", kind="plant"),
    ]
    vectors = np.stack([axis(1)] * 9 + [axis(2), axis(3)])
    texts = {text: axis(0) for item in items for text in item.captions}
    build_collection(tmp_path / "dogs", items, vectors, texts, name="dogs", encoder_hash="e" * 64)
    collection = Collection.open(tmp_path / "dogs")
    assert names(collection.search(axis(3), 2)) == ["oak", "dog 0"]
    assert names(collection.search(axis(3) + axis(2), 2, words="dog", where={"kind": "plant"})) == ["rose", "oak"]


def test_of_two_images_as_good_the_one_whose_caption_has_both_words_is_first(tmp_path):
    """The nearest is second by its words, and the second nearest the first by them."""
    filler = [image(f"thing {number}", f"a thing of kind {number}") for number in range(30)]
    items = [image("police", "police car"), image("red", "a red car"), *filler]
    vectors = np.stack([axis(0), axis(0) + 0.1 * axis(1), *[axis(0) + axis(2)] * 30])
    texts = {text: axis(3) for item in items for text in item.captions}
    build_collection(tmp_path / "cars", items, vectors, texts, name="cars", encoder_hash="e" * 64)
    collection = Collection.open(tmp_path / "cars")
    assert names(collection.search(axis(0), 2)) == ["police", "red"]
    assert names(collection.search(axis(0), 2, words="red car")) == ["red", "police"]
    assert names(collection.search(axis(0), 2, words="car")) == ["police", "red"]


def test_words_of_captions_mend_what_the_vectors_miss(collection):
    query = axis(0)  # what the encoder makes of «dog»
    assert names(collection.search(query, 2)) == ["chestnut", "walnut"]
    hits = collection.search(query, 5, words="dog")
    assert set(names(hits)[:2]) == {"dog", "puppies"}
    assert [hit.score for hit in hits] == pytest.approx([float(collection.vector(hit.id) @ query) for hit in hits])
    assert sorted(names(hits)) == sorted(item.image for item in ITEMS)


def test_a_hit_says_its_ranks_and_the_words_that_its_best_caption_has(collection):
    hits = {hit.metadata["image"]: hit for hit in collection.search(axis(0), 5, words="brown dogs")}
    found = {name: (hit.rank_looks, hit.rank_captions, hit.found) for name, hit in hits.items()}
    assert found["dog"] == (4, 1, ["brown", "dogs"])
    assert found["chestnut"][0::2] == (1, ["brown"])
    assert found["cat"] == (4, None, ())
    assert names(collection.search(axis(0), 5, words="brown dogs", looks=False))[0] == "dog"
    assert [hit.rank_looks for hit in collection.search(axis(0), 3)] == [1, 2, 3]


def test_an_image_counts_by_its_best_caption_and_a_filter_applies(collection):
    assert names(collection.search(axis(3), 1, words="puppies")) == ["puppies"]
    found = names(collection.search(axis(3), 9, words="brown", where={"kind": "plant"}))
    assert found[0] == "chestnut"
    assert set(found) == {"chestnut", "walnut"}


def test_words_that_no_caption_has_change_nothing(collection):
    plain = collection.search(axis(1), 5)
    assert [hit.id for hit in collection.search(axis(1), 5, words="zeppelin")] == [hit.id for hit in plain]


def test_changes_of_a_collection_are_found_by_their_words(collection):
    changes = [change(1, "poodle", "a dog", "a poodle"), change(2, "again", "a brown dog"), change(3, "dog")]
    changed = collection.with_delta(Delta().with_changes(changes))
    found = names(changed.search(axis(0), 9, words="dog"))
    assert set(found[:3]) == {"poodle", "again", "puppies"}
    assert "dog" not in found
    assert names(changed.search(axis(0), 1, words="poodle")) == ["poodle"]
    assert names(changed.search(axis(0), 9, words="poodle", where={"kind": "plant"})) == ["chestnut", "walnut"]
    # the state before shares the index, and does not have what came later
    assert set(names(collection.search(axis(0), 9, words="poodle"))) == {item.image for item in ITEMS}
    assert names(collection.search(axis(0), 2, words="brown dog"))[0] in ("dog", "chestnut")
    later = collection.with_delta(changed.delta.with_changes([change(4, "poodle")]))
    assert "poodle" not in names(later.search(axis(0), 9, words="poodle"))


def test_a_search_by_words_is_of_images_and_has_a_limit(collection):
    with pytest.raises(UserError, check=lambda error: error.code == "invalid_value"):
        collection.search(axis(0), 3, "texts", words="dog")
    with pytest.raises(UserError, check=lambda error: error.code == "invalid_value"):
        collection.search(axis(0), FUSED_HITS + 1, words="dog")
