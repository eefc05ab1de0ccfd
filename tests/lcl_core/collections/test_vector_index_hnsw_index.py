"""Large collections: what the graph finds is nearly what one pass over all vectors finds, filters come first."""

from __future__ import annotations

import numpy as np
import pytest

from lcl_core.collections import vector_index
from lcl_core.collections.changes import ChangeRecord, Delta
from lcl_core.collections.collection import FUSED_HITS, Collection
from lcl_core.collections.file_format import GRAPHS
from lcl_core.collections.vector_index import HnswIndex, nearest, write_hnsw_index
from lcl_core.collections.writer import CollectionItem
from lcl_core.common.errors import UserError
from tests.lcl_core.collections.building import build_collection

ROWS, DIM, K = 3000, 32, 10


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """What is large is small here."""
    monkeypatch.setattr(vector_index, "EXACT_ROWS", 500)
    monkeypatch.setattr(vector_index, "_CHUNK_ROWS", 700)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def vectors():
    """f16 [ROWS, DIM], about some centres as an encoder's are."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(40, DIM))
    return unit(centres[random.integers(40, size=ROWS)] + 0.5 * random.normal(size=(ROWS, DIM))).astype(np.float16)


@pytest.fixture
def queries(vectors):
    random = np.random.default_rng(1)
    return unit(vectors[random.integers(ROWS, size=100)] + 0.1 * random.normal(size=(100, DIM)))


def made(tmp_path, vectors, **more):
    write_hnsw_index(tmp_path / "graph", vectors, **more)
    return HnswIndex.open(tmp_path / "graph", vectors)


def recall(searched, vectors, queries, rows=None):
    found = [set(searched.nearest(query, K, rows)[0].tolist()) for query in queries]
    true = [set(nearest(vectors, query, K, rows)[0].tolist()) for query in queries]
    return float(np.mean([len(some & all_) / K for some, all_ in zip(found, true, strict=True)]))


@pytest.mark.parametrize("half_rows", [10_000, 1_000], ids=["f16", "int8"])
def test_it_finds_the_neighbours_with_their_scores(tmp_path, vectors, queries, half_rows, monkeypatch):
    monkeypatch.setattr(vector_index, "MAX_F16_ROWS", half_rows)
    reported: list[int] = []
    searched = made(tmp_path, vectors, progress=reported.append)
    assert reported == [1000, 1700, 2400, 3000]  # the first 1,000 by one thread
    assert recall(searched, vectors, queries) > 0.98
    rows, scores = searched.nearest(queries[0], K)
    assert np.allclose(scores, vectors[rows].astype(np.float32) @ queries[0], atol=2e-3)
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("share", [0.5, 0.2, 0.01])
def test_a_filter_comes_before_the_top_k(tmp_path, vectors, queries, share):
    allowed = np.flatnonzero(np.random.default_rng(2).random(ROWS) < share)
    searched = made(tmp_path, vectors)
    for query in queries[:20]:
        rows, _ = searched.nearest(query, K, allowed)
        assert len(rows) == K
        assert set(rows.tolist()) <= set(allowed.tolist())
    assert recall(searched, vectors, queries, allowed) > 0.97


def test_a_filter_that_leaves_only_what_is_far_is_answered_in_full(tmp_path, vectors, queries):
    query = queries[0]
    far = np.sort(np.argsort(vectors.astype(np.float32) @ query)[:1000])
    rows, _ = made(tmp_path, vectors).nearest(query, K, far)
    assert rows.tolist() == nearest(vectors, query, K, far)[0].tolist()


def test_more_than_a_walk_finds_is_one_pass(tmp_path, vectors, queries, monkeypatch):
    monkeypatch.setattr(vector_index, "MAX_NEIGHBOURS", 50)
    rows, _ = made(tmp_path, vectors).nearest(queries[0], 60)
    assert rows.tolist() == nearest(vectors, queries[0], 60)[0].tolist()


@pytest.mark.parametrize(("k", "left_out"), [(50, 1), (50, 700), (14, 2000)])
def test_what_a_filter_drops_costs_no_pass_over_all(tmp_path, vectors, queries, monkeypatch, k, left_out):
    searched = made(tmp_path, vectors)
    allowed = np.sort(np.random.default_rng(3).permutation(ROWS)[left_out:])
    expected = [set(nearest(vectors, query, k, allowed)[0].tolist()) for query in queries]
    monkeypatch.setattr(vector_index, "MAX_NEIGHBOURS", 90)
    monkeypatch.setattr(vector_index, "nearest", None)  # the pass over all
    found = [searched.nearest(query, k, allowed)[0] for query in queries]
    assert {len(rows) for rows in found} == {k}
    same = [len(some & set(rows.tolist())) / k for some, rows in zip(expected, found, strict=True)]
    assert np.mean(same) > 0.97


def test_a_hybrid_search_after_one_change_asks_the_graph(tmp_path, vectors, queries, monkeypatch):
    items = [CollectionItem(f"{row}.png", b"", "image/png", (f"one of {row % 7}",)) for row in range(ROWS)]
    texts = {f"one of {number}": vectors[number] for number in range(7)}
    build_collection(tmp_path / "many", items, vectors, texts, name="many", encoder_hash="e" * 64, dtype="f16")
    opened = Collection.open(tmp_path / "many")
    gone = opened.search(queries[0], 1)[0].id
    changed = opened.with_delta(Delta().with_changes([ChangeRecord(1, gone)]))
    expected = [hit.id for hit in opened.search(queries[0], 50) if hit.id != gone]
    monkeypatch.setattr(vector_index, "nearest", None)  # the pass over all
    assert [hit.id for hit in changed.search(queries[0], 49)] == expected
    assert gone not in [hit.id for hit in changed.search(queries[0], FUSED_HITS, words="one of 3")]


def test_a_graph_of_other_vectors_or_none_is_refused(tmp_path, vectors):
    write_hnsw_index(tmp_path / "graph", vectors)
    (tmp_path / "noise").write_bytes(b"no graph" * 100)
    for name, given in (("graph", vectors[:-1]), ("graph", vectors[:, :-1]), ("noise", vectors)):
        with pytest.raises(UserError, match="index run") as refused:
            HnswIndex.open(tmp_path / name, given)
        assert refused.value.code == "collection_unreadable"


def test_a_collection_gets_one_when_it_is_large(tmp_path, vectors, queries, monkeypatch):
    items = [
        CollectionItem(f"{row}.png", b"", "image/png", (f"one of {row % 7}",), {"half": "ab"[row % 2]})
        for row in range(ROWS)
    ]
    texts = {f"one of {number}": vectors[number] for number in range(7)}
    build_collection(tmp_path / "many", items, vectors, texts, name="many", encoder_hash="e" * 64, dtype="f16")
    collection = Collection.open(tmp_path / "many", verify=True)
    assert set(GRAPHS.values()) & set(collection.manifest.files) == {GRAPHS["images"]}
    kept = np.memmap(tmp_path / "many" / "image_vectors.bin", np.float16, mode="r", shape=(ROWS, DIM))
    hits = [hit for query in queries for hit in collection.search(query, K)]
    true = [f"{row}.png" for query in queries for row in nearest(kept, query, K)[0]]
    assert np.mean([hit.metadata["image"] == name for hit, name in zip(hits, true, strict=True)]) > 0.95
    assert {hit.metadata["labels"]["half"] for hit in collection.search(queries[0], K, where={"half": "b"})} == {"b"}
    assert len(collection.search(queries[0], 3, "texts")) == 3

    (tmp_path / "many" / GRAPHS["images"]).write_bytes(b"short")
    with pytest.raises(UserError, match=r"image_graph\.usearch holds 5 bytes"):
        Collection.open(tmp_path / "many")
