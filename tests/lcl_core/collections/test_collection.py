"""Collections on a real disk: what is written is found again, and what does not belong is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lcl_core.collections.collection import Collection
from lcl_core.collections.file_format import FILES
from lcl_core.collections.writer import CollectionItem, CollectionWriter
from lcl_core.common.errors import UserError
from tests.lcl_core.collections.building import build_collection

ENCODER = "e" * 64
DIM = 8


def unit(*rows):
    """[n, DIM] vectors along the axes ``rows``."""
    return np.eye(DIM, dtype=np.float32)[list(rows)]


ITEMS = [
    CollectionItem("a/ant.png", b"ANT", "image/png", ("ant", "an insect"), {"group": "animals"}, "train", "emoji"),
    CollectionItem("a/bee.png", b"BEES", "image/webp", ("bee", "an insect"), {"group": "animals"}, "test", "emoji"),
    CollectionItem("a/bus.png", b"", "image/png", ("bus",), {"group": "travel", "wheels": "4"}, "train", "signs"),
    CollectionItem("a/cut.png", b"CUT", "image/png", ("  ",), {}, "train", "signs"),
]
IMAGE_VECTORS = np.stack([unit(0)[0], unit(0)[0] + unit(1)[0], unit(2)[0] * 5, unit(3)[0]])
TEXT_VECTORS = {"ant": unit(0)[0], "an insect": unit(0)[0] + unit(1)[0], "bee": unit(1)[0], "bus": unit(2)[0]}


def build(place, **changes):
    arguments = {"name": "few", "encoder_hash": ENCODER, "dataset_hash": "d" * 64, **changes}
    build_collection(place, ITEMS, IMAGE_VECTORS, TEXT_VECTORS, **arguments)
    return place


@pytest.fixture
def place(tmp_path):
    return build(tmp_path / "few")


@pytest.fixture
def collection(place):
    return Collection.open(place, verify=True)


def names(hits):
    return [hit.metadata.get("image") or hit.metadata["text"] for hit in hits]


def refusal(code):
    return pytest.raises(UserError, check=lambda error: error.code == code)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_the_nearest_images_come_first_with_their_cosine(tmp_path, dtype):
    collection = Collection.open(build(tmp_path / dtype, dtype=dtype))
    hits = collection.search(unit(0)[0] * 7, k=3)
    assert names(hits) == ["a/ant.png", "a/bee.png", "a/bus.png"]
    assert [hit.score for hit in hits] == pytest.approx([1, 2**-0.5, 0], abs=1e-3)
    assert collection.manifest.dtype == dtype


def test_a_hit_carries_what_a_gallery_shows(collection):
    (hit,) = collection.search(unit(1)[0], k=1)
    expected = {"image": "a/bee.png", "captions": ["bee", "an insect"], "labels": {"group": "animals"}}
    expected |= {"split": "test", "source": "emoji", "media_type": "image/webp"}
    assert hit.metadata == expected | {"id": hit.id}
    assert collection.image_bytes(hit.id) == b"BEES"
    assert collection.item(hit.id) == hit.metadata
    assert hit.id.isascii()
    assert "/" not in hit.id, "ids stand in addresses"


def test_texts_are_found_with_the_images_that_carry_them(collection):
    hits = collection.search(unit(0)[0], k=2, target="texts")
    assert names(hits) == ["ant", "an insect"]
    carriers = [collection.item(item)["image"] for item in hits[1].metadata["items"]]
    assert carriers == ["a/ant.png", "a/bee.png"]
    assert collection.manifest.texts == 4, "blank captions are no texts, equal ones are one"


def test_the_filter_comes_before_the_top_k(collection):
    query = unit(0)[0]
    assert names(collection.search(query, k=1, where={"group": "travel"})) == ["a/bus.png"]
    assert names(collection.search(query, k=9, where={"split": "train", "source": ["signs", "emoji"]})) == [
        "a/ant.png",
        "a/bus.png",
        "a/cut.png",
    ]
    assert names(collection.search(query, k=9, where={"wheels": ["3", "4"]})) == ["a/bus.png"]
    assert names(collection.search(query, k=1, where={"split": "test"}, target="texts")) == ["an insect"]
    assert collection.search(query, where={"group": "plants"}) == []
    assert collection.search(query, where={"split": "test", "group": "travel"}, target="texts") == []


def test_an_unknown_label_names_the_known_ones(collection):
    with pytest.raises(UserError, match="group, source, split, wheels") as caught:
        collection.search(unit(0)[0], where={"colour": "red"})
    assert (caught.value.code, caught.value.field) == ("invalid_value", "where.colour")
    assert collection.label_values() == {
        "split": ["train", "test"],
        "source": ["emoji", "signs"],
        "group": ["animals", "travel"],
        "wheels": ["4"],
    }


def test_another_encoders_vector_is_refused(collection):
    assert collection.search(unit(0)[0], k=1, encoder_hash=ENCODER)
    with refusal("encoder_mismatch"):
        collection.search(unit(0)[0], encoder_hash="f" * 64)


@pytest.mark.parametrize("vector", [np.ones(DIM + 1), np.ones((1, DIM)), np.zeros(DIM), np.full(DIM, np.nan)])
def test_a_vector_that_cannot_be_compared_is_refused(collection, vector):
    with refusal("invalid_value"):
        collection.search(vector)


def test_other_bad_questions(collection):
    for k in (0, -1, 10_001):
        with refusal("invalid_value"):
            collection.search(unit(0)[0], k=k)
    with refusal("invalid_value"):
        collection.search(unit(0)[0], target="sounds")  # type: ignore[arg-type]
    for item in ("img_0000000000000000", "img_zz", "txt_0", "", "../few"):
        with refusal("not_found"):
            collection.image_bytes(item)


def test_vectors_and_ids_are_row_aligned(collection):
    ids, vectors = collection.vectors("images")
    assert [collection.item(item)["image"] for item in ids] == [item.image for item in ITEMS]
    assert [item["id"] for item in collection.items(offset=1, limit=2)] == ids[1:3]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.allclose(collection.vector(ids[2]), unit(2)[0])
    texts, text_vectors = collection.vectors("texts")
    assert np.allclose(collection.vector(texts[3]), text_vectors[3])


def test_an_empty_collection_answers_nothing(tmp_path):
    build_collection(tmp_path / "none", [], np.empty((0, DIM)), {}, name="none", encoder_hash=ENCODER)
    collection = Collection.open(tmp_path / "none", verify=True)
    assert len(collection) == 0
    assert collection.search(unit(0)[0]) == []
    assert collection.search(unit(0)[0], target="texts") == []


def test_a_collection_without_captions_is_filtered_all_the_same(tmp_path):
    items = [CollectionItem("x", b"1", "image/png", split="train")]
    build_collection(tmp_path / "mute", items, unit(0), {}, name="mute", encoder_hash=ENCODER)
    collection = Collection.open(tmp_path / "mute")
    assert names(collection.search(unit(0)[0], where={"split": "train"})) == ["x"]
    assert collection.search(unit(0)[0], where={"split": "train"}, target="texts") == []


def test_the_older_collection_stays_until_the_new_one_is_whole(place):
    facts: dict[str, Any] = {"name": "new", "encoder_hash": ENCODER, "dataset_hash": "", "dim": DIM}
    with CollectionWriter(place, **facts) as writer:
        writer.add_items(ITEMS[:2], IMAGE_VECTORS[:2])
        assert writer.texts() == ["ant", "an insect", "bee"]
        writer.add_text_vectors(np.ones((3, DIM)))
        assert Collection.open(place).name == "few", "not before it is whole"
    assert Collection.open(place, verify=True).name == "new"
    assert [path.name for path in place.parent.iterdir()] == ["few"]


def test_a_failed_build_leaves_the_older_collection_and_nothing_else(place):
    with pytest.raises(UserError, match="has no vector"):
        build_collection(place, ITEMS, IMAGE_VECTORS, {}, name="new", encoder_hash=ENCODER)
    assert Collection.open(place, verify=True).name == "few"
    assert [path.name for path in place.parent.iterdir()] == ["few"]


def test_what_does_not_fit_is_not_written(tmp_path):
    facts: dict[str, Any] = {"name": "new", "encoder_hash": ENCODER, "dataset_hash": "", "dim": DIM}
    wrong = [np.ones((2, DIM + 1)), np.ones((1, DIM)), np.zeros((2, DIM)), np.full((2, DIM), np.inf)]
    for vectors in wrong:
        with refusal("invalid_value"), CollectionWriter(tmp_path / "new", **facts) as writer:
            writer.add_items(ITEMS[:2], vectors)
    with refusal("conflict"), CollectionWriter(tmp_path / "new", **facts) as writer:
        writer.add_items([ITEMS[0], ITEMS[0]], unit(0, 1))
    with refusal("invalid_value"), CollectionWriter(tmp_path / "new", **facts) as writer:
        writer.add_items(ITEMS[:1], unit(0))  # its captions get no vectors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_a_cut_or_missing_file_is_seen_at_opening(place, name):
    file = place / name
    content = file.read_bytes()
    file.write_bytes(content[:-1] if content else b"x")
    with pytest.raises(UserError, match="bytes where the manifest says") as caught:
        Collection.open(place)
    assert (caught.value.code, caught.value.file) == ("collection_unreadable", str(file))
    file.unlink()
    with refusal("collection_unreadable"):
        Collection.open(place)


def test_a_manifest_that_lies_or_is_of_another_time_is_refused(place):
    manifest = json.loads((place / "manifest.json").read_text())
    for change in ({"dim": DIM * 2}, {"images": 3}, {"format_version": 2}, {"dtype": "f16"}, {"files": {}}):
        (place / "manifest.json").write_text(json.dumps(manifest | change))
        with refusal("collection_unreadable"):
            Collection.open(place)
    (place / "manifest.json").write_text("{")
    with refusal("collection_unreadable"):
        Collection.open(place)
    with refusal("collection_unreadable"):
        Collection.open(place / "nowhere")
