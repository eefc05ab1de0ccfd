"""Collections whose encoder reads images alone: captions without vectors, which are found by their words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lcl_core.collections.changes import ChangeRecord, Delta, write_snapshot
from lcl_core.collections.collection import FEEDBACK_IMAGES, Collection
from lcl_core.collections.file_format import stable_hash64, text_id
from lcl_core.collections.index_job import run_index_job
from lcl_core.collections.writer import CollectionItem, CollectionWriter
from lcl_core.common.errors import UserError
from lcl_core.encoders.engine import EncoderEngine
from tests.lcl_core.collections.building import build_collection
from tests.lcl_core.collections.test_index_job import metrics, prepare, write_corpus
from tests.lcl_core.encoders.external_samples import save_huggingface

DIM = 4
AXES = np.eye(DIM, dtype=np.float32)


def image(name, *captions):
    return CollectionItem(name, name.encode(), "image/png", captions, {"kind": "animal"}, "train", "drawn")


ITEMS = [image("dog", "a brown dog"), image("puppy", "a dog, asleep"), image("wolf"), image("cat", "a cat")]
VECTORS = np.stack([AXES[0], AXES[1], AXES[0] + AXES[1], AXES[2]])


@pytest.fixture
def collection(tmp_path):
    build_collection(tmp_path / "few", ITEMS, VECTORS, None, name="few", encoder_hash="e" * 64)
    return Collection.open(tmp_path / "few", verify=True)


def added(number, name, *captions, vector=AXES[3]):
    item = f"img_{stable_hash64(name):016x}"
    record = {"id": item, "image": name, "captions": list(captions), "labels": {}, "split": "", "source": ""}
    return ChangeRecord(number, item, {**record, "media_type": "image/png"}, vector.tobytes())


def names(hits):
    return [hit.metadata["image"] for hit in hits]


def assert_refused(call):
    with pytest.raises(UserError, match="encoder of images alone") as caught:
        call()
    assert (caught.value.code, caught.value.field) == ("no_text_encoder", "target")


@pytest.mark.parametrize("changes", [(), (added(1, "fox", "a red fox"),)])
def test_what_needs_vectors_of_captions_is_refused(collection, changes):
    opened = collection.with_delta(Delta().with_changes(changes))
    assert not opened.has_text_vectors
    assert opened.count("texts") == 3 + len(changes)
    assert opened.record("texts", 0)["text"] == "a brown dog"
    assert_refused(lambda: opened.search(AXES[0], target="texts"))
    assert_refused(lambda: opened.vector(text_id("a cat")))
    assert_refused(lambda: opened.at("texts", [0]))
    assert_refused(lambda: opened.vectors("texts"))
    assert_refused(lambda: collection.vectors("texts"))
    assert opened.caption_vectors(opened.record("images", 0)) == []
    assert len(opened.vectors("images")[1]) == 4 + len(changes)


def test_a_text_is_searched_by_the_mean_of_the_images_that_its_words_describe(collection):
    vector = collection.mean_of_matching_images("dogs")
    assert vector is not None
    np.testing.assert_allclose(vector, (AXES[0] + AXES[1]) / np.sqrt(2), atol=1e-6)
    hits = collection.search(vector, 4, words="dogs")
    assert names(hits)[2:] == ["wolf", "cat"], "no caption, and like dogs"
    assert {*names(hits)[:2]} == {"dog", "puppy"}
    np.testing.assert_allclose(collection.mean_of_matching_images("brown dog"), AXES[0], atol=1e-6)
    np.testing.assert_allclose(collection.mean_of_matching_images("cat on a tree"), AXES[2], atol=1e-6)
    assert collection.mean_of_matching_images("horse") is None
    assert collection.mean_of_matching_images("…") is None


def test_added_images_count_and_removed_ones_do_not(collection):
    gone = ChangeRecord(2, f"img_{stable_hash64('dog'):016x}")
    opened = collection.with_delta(Delta().with_changes([added(1, "pug", "a dog"), gone]))
    np.testing.assert_allclose(opened.mean_of_matching_images("dog"), (AXES[1] + AXES[3]) / np.sqrt(2), atol=1e-6)
    assert names(opened.search(AXES[3], 1, words="dog")) == ["pug"]


def test_the_mean_is_of_few_images(tmp_path):
    many = [image(f"bird {number}", "a bird " * (1 + number // FEEDBACK_IMAGES)) for number in range(30)]
    vectors = np.stack([AXES[0]] * FEEDBACK_IMAGES + [AXES[1]] * (30 - FEEDBACK_IMAGES))
    captions = {item.captions[0]: number for number, item in enumerate(many)}
    assert len(captions) == 3
    build_collection(tmp_path / "many", many, vectors, None, name="many", encoder_hash="e" * 64)
    opened = Collection.open(tmp_path / "many")
    vector = opened.mean_of_matching_images("bird")
    assert vector is not None
    assert np.isclose(vector.max(), 1), "of one of the three captions"


def test_vectors_of_captions_are_refused_where_none_are_expected(tmp_path):
    header: dict[str, Any] = {"name": "few", "encoder_hash": "e" * 64, "dataset_hash": "", "dim": DIM}

    def write():
        with CollectionWriter(tmp_path / "new", **header, text_vectors=False) as writer:
            writer.add_items(ITEMS, VECTORS)
            writer.add_text_vectors(VECTORS[:3])

    with pytest.raises(UserError, match="3 text vectors for 3 captions, not 0"):
        write()


def test_an_index_run_makes_one_and_adds_to_it(tmp_path, sample):
    encoder = save_huggingface(tmp_path / "dinov2", "dinov2")
    corpus = write_corpus(tmp_path / "corpus", sample, {"text.png": b"not an image"})
    run_dir = prepare(tmp_path / "run", corpus, encoder)
    result = run_index_job(run_dir)
    assert (result["collection"]["images"], result["skipped"]) == (4, {"image_unreadable": 1})
    made = Collection.open(run_dir.path / result["collection"]["path"], verify=True)
    assert (made.has_text_vectors, made.count("texts")) == (False, result["collection"]["texts"])
    session = EncoderEngine(encoder, device="cpu")
    pair = sample.pairs("val")[2]
    vector = session.embed_images([sample.read_image(pair.image)])[0]
    (hit,) = made.search(vector, 1, encoder_hash=session.hash)
    assert (hit.metadata["captions"], hit.score) == (list(pair.captions), pytest.approx(1, abs=1e-4))
    rows = metrics(run_dir)
    assert {row["phase"] for row in rows} == {"images"}
    assert rows[-1]["step"] == rows[-1]["total_steps"] == rows[0]["total_steps"] == 5

    again = prepare(tmp_path / "again", corpus, encoder, mode="add", dataset=None)
    add_to(again, made.directory, added(7, "fox", "a red fox", vector=vector))
    folded = run_index_job(again)
    made = Collection.open(again.path / folded["collection"]["path"], verify=True)
    assert (made.has_text_vectors, len(made)) == (False, 5)
    assert names(made.search(-vector, 1, words="fox")) == ["fox"]


def add_to(run_dir, base, change):
    """Write the collection that the run adds to into run.json, with one change."""
    changes = run_dir.path / "changes"
    write_snapshot(changes, [(change, b"fox")])
    entry = {"id": "col_1", "stored": "collections/col_1", "path": str(base), "through": 7, "index": "files"}
    run_dir.prepare(run_dir.read_run() | {"collections": {"pictures": {**entry, "changes": str(changes)}}})
