"""Groups of near-duplicates against the plain definition: the row with most links, and what is linked to it."""

from __future__ import annotations

import numpy as np
import pytest

from lcl_core.collections import file_format, near_duplicates, vector_index
from lcl_core.collections.changes import ChangeRecord, Delta
from lcl_core.collections.collection import Collection
from lcl_core.collections.near_duplicates import RowGraph, near_duplicate_groups
from lcl_core.collections.writer import CollectionItem, CollectionWriter
from lcl_core.common.errors import UserError


def plain(vectors, threshold):
    """One row at a time, in double precision."""
    rows = vectors.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    linked = rows @ rows.T >= threshold
    left, found = set(range(len(rows))), []
    for centre in sorted(left, key=lambda row: (-linked[row].sum(), row)):
        group = {int(other) for other in np.flatnonzero(linked[centre])} & left if centre in left else set()
        left -= group
        if len(group) > 1:
            found.append([centre, *sorted(group - {centre})])
    return sorted(found, key=lambda group: (-len(group), group[0]))


def clusters(rows, width, noise, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(rows // 4, width))
    return centres[random.integers(len(centres), size=rows)] + noise * random.normal(size=(rows, width))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(near_duplicates, "BLOCK_ROWS", 32)
    monkeypatch.setattr(near_duplicates, "SKETCH", 8)
    monkeypatch.setattr(near_duplicates, "_SAMPLED", 100)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("width", [6, 24])
@pytest.mark.parametrize("threshold", [0.2, 0.7, 0.9, 0.97])
def test_blocks_give_what_every_pair_gives(dtype, width, threshold):
    vectors = (3 * clusters(300, width, 0.2)).astype(dtype)  # of any length
    found = near_duplicate_groups(vectors, threshold)
    assert [group.tolist() for group in found] == plain(vectors, threshold)
    assert found, "something is to be found"


@pytest.mark.usefixtures("small_blocks")
def test_a_chain_is_cut_and_equal_ones_are_linked_at_the_top():
    turn = np.deg2rad(np.arange(0, 150, 2.0))
    chain = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)
    groups = near_duplicate_groups(chain[np.random.default_rng(0).permutation(len(chain))], 0.999)
    assert {len(group) for group in groups} <= {2, 3}, "an image, and those beside it on either side"
    pairs = near_duplicate_groups(chain[[0, 1, 2, 3]], 0.999)
    assert [group.tolist() for group in pairs] == [[1, 0, 2]], "the last is linked to the third alone"
    assert near_duplicate_groups(chain, 0.9999) == []
    rest = np.random.default_rng(1).normal(size=(60, 512)).astype(np.float16)
    rest[50] = rest[3]
    assert [group.tolist() for group in near_duplicate_groups(rest, 1.0)] == [[3, 50]]


@pytest.mark.parametrize("rows", [0, 1])
def test_of_none_or_one_there_is_no_group(rows):
    assert near_duplicate_groups(np.ones((rows, 128), np.float32), 0.5) == []


def test_it_gives_up_when_its_time_is_over():
    with pytest.raises(UserError, match="not found within 0 seconds; raise the threshold") as caught:
        near_duplicate_groups(np.ones((10, 4), np.float32), 0.9, seconds=0)
    assert caught.value.code == "too_large"


def test_a_collection_names_the_images_of_its_groups(tmp_path, monkeypatch):
    vectors = clusters(60, 16, 0.1).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for rows, folder in ((100_000, "exact"), (10, "linked")):
        monkeypatch.setattr(vector_index, "EXACT_ROWS", rows)
        with CollectionWriter(tmp_path / folder, name="n", encoder_hash="0" * 64, dataset_hash="", dim=16) as writer:
            writer.add_items([CollectionItem(f"{row}.png", b"", "image/png") for row in range(60)], vectors)
            writer.link()
        assert (tmp_path / folder / file_format.GRAPHS["images"]).exists() == (folder == "linked")
        made = Collection.open(tmp_path / folder)
        found = [made.group(ids) for ids in made.duplicates(0.9)]
        names = [[int(hit.metadata["image"].removesuffix(".png")) for hit in hits] for hits in found]
        assert names == plain(vectors, 0.9)
        assert [hit.score for hit in found[0]] == pytest.approx((vectors @ vectors[names[0][0]])[names[0]], abs=1e-5)


def test_with_a_graph_nearly_the_same_groups_are_found(tmp_path):
    vectors = clusters(2000, 32, 0.15)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    vector_index.write_hnsw_index(tmp_path / "graph", vectors)
    searched = vector_index.HnswIndex.open(tmp_path / "graph", vectors)
    graph = RowGraph(searched.neighbours, len(vectors))
    found = {tuple(group.tolist()) for group in near_duplicate_groups(vectors, 0.95, graph)}
    true = {tuple(group) for group in plain(vectors, 0.95)}
    assert len(true) > 300
    assert len(found & true) / len(true) > 0.98


def change_of(number, name, vector):
    """An image added, or removed."""
    item = file_format.item_id(name)
    if vector is None:
        return ChangeRecord(number, item)
    record = {"id": item, "image": name, "captions": [], "labels": {"tags": '["x"]'}, "split": "", "source": ""}
    return ChangeRecord(number, item, {**record, "media_type": "image/png"}, vector.astype("<f4").tobytes())


@pytest.mark.parametrize("rows", [100_000, 10], ids=["exact", "linked"])
def test_changes_are_compared_with_the_directory_and_each_other(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(vector_index, "EXACT_ROWS", rows)
    vectors = np.random.default_rng(0).normal(size=(66, 64)).astype(np.float32)
    for copy, original in ((1, 0), (3, 2), (5, 4), (60, 6), (61, 7), (63, 62)):
        vectors[copy] = vectors[original]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with CollectionWriter(tmp_path / "it", name="n", encoder_hash="0" * 64, dataset_hash="", dim=64) as writer:
        writer.add_items([CollectionItem(f"{row}.png", b"", "image/png") for row in range(60)], vectors[:60])
        writer.link()
    changes = [(f"{row}.png", vectors[row]) for row in range(60, 66)]  # of directory and each other
    changes += [("1.png", vectors[1]), ("8.png", vectors[0])]  # other labels alone; another image under its name
    changes += [("3.png", None), ("64.png", None)]
    added = [change_of(number, name, vector) for number, (name, vector) in enumerate(changes, 1)]
    changed = Collection.open(tmp_path / "it").with_delta(Delta().with_changes(added))
    groups = [{changed.item(item)["image"] for item in ids} for ids in changed.duplicates(0.99)]
    expected = [{"0.png", "1.png", "8.png"}, {"4.png", "5.png"}, {"6.png", "60.png"}, {"7.png", "61.png"}]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, [*expected, {"62.png", "63.png"}]))
