"""What every vector index does alike: it proposes the rows that are nearest, and what it cannot do is made up for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest

from lcl_core.collections import qdrant_index, vector_index
from lcl_core.collections.vector_index import ExternalIndex, nearest
from lcl_core.common.errors import UserError
from lcl_core.common.settings import Settings
from lcl_core.vector_indexes import INDEXES, TARGETS, IndexLocation, VectorIndex, check_index

ROWS, DIM, K, EXACT = 2400, 32, 10, 500


@dataclass
class Backend:
    """One index under test: ``open`` as another process would."""

    name: str
    open: Callable[[], VectorIndex]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def clustered(rows, seed):
    """Vectors about some centres, as an encoder's are, with numbers that f16 holds."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(40, DIM))
    made = centres[random.integers(40, size=rows)] + 0.5 * random.normal(size=(rows, DIM))
    return unit(made).astype(np.float16).astype(np.float32)


VECTORS, QUERIES = clustered(ROWS, 0), unit(clustered(20, 1))


def batch(start, stop, vectors=VECTORS):
    return range(start, stop), [f"img_{row:016x}" for row in range(start, stop)], vectors[start:stop]


def batches(rows=ROWS, vectors=VECTORS):
    for start in range(0, rows, 700):
        yield batch(start, min(start + 700, rows), vectors)


@pytest.fixture
def backend(monkeypatch):
    """The client's local mode."""
    client = pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed").QdrantClient(":memory:")
    monkeypatch.setattr(vector_index, "EXACT_ROWS", EXACT)
    monkeypatch.setattr(qdrant_index, "_client", lambda *_: client)
    yield Backend("qdrant", lambda: qdrant_index.QdrantIndex("http://local", "qdrant_1", DIM))
    client.close()


def built(backend, rows=ROWS):
    index = backend.open()
    index.build("images", batches(rows))
    return index


def proposed(index, query, k, rows=(), among=False):
    return [int(row) for row in index("images", query.tolist(), k, rows, among)]


def recall(index, rows=None, k=K):
    """Share of the true neighbours among the rows that the index alone proposes."""
    listed, among = ([], False) if rows is None else (rows.tolist(), True)
    shares = []
    for query in QUERIES:
        true = set(nearest(VECTORS, query, k, rows)[0].tolist())
        found = set(proposed(index, query, k, listed, among))
        assert rows is None or found <= set(rows.tolist())
        shares.append(len(found & true) / len(true))
    return float(np.mean(shares))


def test_what_is_found_is_ranked_as_brute_force_ranks_it(backend):
    searched = ExternalIndex(built(backend), "images", VECTORS)
    for query in QUERIES[:5]:
        everything, scores = searched.nearest(query, ROWS)
        expected, exact = nearest(VECTORS, query, ROWS)
        assert everything.tolist() == expected.tolist()
        assert np.array_equal(scores, exact)
        rows, scores = searched.nearest(query, K)
        assert np.allclose(scores, VECTORS[rows] @ query, atol=1e-6)
        assert (np.diff(scores) <= 0).all()


def test_the_index_alone_misses_few(backend):
    assert recall(built(backend)) >= 0.95


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8])
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "too-long-a-list"])
def test_a_filter_comes_before_the_top_k(backend, share, listed, monkeypatch):
    if not listed:
        monkeypatch.setattr(vector_index, "MAX_LISTED", 5)
    rows = np.flatnonzero(np.random.default_rng(2).random(ROWS) < share)
    index = built(backend)
    searched = ExternalIndex(index, "images", VECTORS)
    for query in QUERIES[:5]:
        found, scores = searched.nearest(query, K, rows)
        assert len(found) == K
        assert set(found.tolist()) <= set(rows.tolist())
        assert np.allclose(scores, VECTORS[found] @ query, atol=1e-6)
    hits = [
        len(set(searched.nearest(query, K, rows)[0].tolist()) & set(nearest(VECTORS, query, K, rows)[0].tolist()))
        for query in QUERIES
    ]
    assert np.mean(hits) / K >= 0.9
    if listed:
        assert recall(index, rows) >= 0.9


def test_no_row_is_proposed_from_none(backend):
    assert proposed(built(backend, 50), QUERIES[0], 5, [], among=True) == []


def test_images_and_texts_are_apart(backend):
    index = built(backend, 60)
    index.build("texts", [batch(0, 20, -VECTORS)])
    assert proposed(index, VECTORS[7], 1) == [7]
    assert list(index("texts", (-VECTORS[7]).tolist(), 1, (), False)) == [7]
    index.build("texts", [batch(0, 10, VECTORS)])  # anew
    assert sorted(index("texts", VECTORS[7].tolist(), 10, (), False)) == list(range(10))
    index.drop()
    for target in TARGETS:
        with pytest.raises(UserError) as caught:
            backend.open()(target, VECTORS[0].tolist(), 1, (), False)
        assert caught.value.code == "index_unusable"
    index.drop()  # there is nothing to remove


@pytest.mark.parametrize("what", ["missing", "of-other-vectors"])
def test_what_cannot_be_used_is_made_up_for(backend, what, caplog):
    vectors = VECTORS
    if what == "of-other-vectors":
        built(backend)
        vectors = VECTORS[:-1][::-1].copy()
    else:
        with suppress(UserError):
            backend.open().drop()
    searched = ExternalIndex(backend.open(), "images", vectors)
    queries = [VECTORS[-1], *QUERIES[:3]]
    with caplog.at_level(logging.WARNING):
        for query in queries:
            expected, exact = nearest(vectors, query, K)
            rows, scores = searched.nearest(query, K)
            if what != "of-other-vectors":
                assert rows.tolist() == expected.tolist()
                assert np.array_equal(scores, exact)
            assert np.allclose(scores, vectors[rows] @ query, atol=1e-6)
    warnings = [record for record in caplog.records if "cannot be used" in record.getMessage()]
    assert len(warnings) == 1, "once an index, not once a search"


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("lcl_core.vector_indexes.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'lcl\[qdrant\]'") as caught:
        check_index("qdrant", IndexLocation(dim=DIM))
    assert (caught.value.code, caught.value.field) == ("missing_extra", "index")
    for package in ("qdrant_client", "qdrant_client.http.exceptions"):
        monkeypatch.setitem(sys.modules, package, None)
    settings = Settings(home=tmp_path, qdrant_url="http://127.0.0.1:9")
    index = INDEXES["qdrant"].index_class().at(IndexLocation("qdrant_1", DIM, settings))
    with pytest.raises(UserError, match=r"lcl\[qdrant\]"):
        index.build("images", batches())
    rows, _ = ExternalIndex(index, "images", VECTORS).nearest(QUERIES[0], K)
    assert rows.tolist() == nearest(VECTORS, QUERIES[0], K)[0].tolist()


def test_qdrant_needs_a_server(tmp_path):
    pytest.importorskip("qdrant_client", reason="the extra of index qdrant is not installed")
    with pytest.raises(UserError, match="LCL_QDRANT_URL") as caught:
        check_index("qdrant", IndexLocation(settings=Settings(home=tmp_path)))
    assert (caught.value.code, caught.value.field) == ("qdrant_failed", "index")


@pytest.mark.parametrize("url", ["qdrant:6333", "file:///srv/qdrant", "http://key@host:6333"])
def test_the_address_of_a_server_is_one(tmp_path, url):
    with pytest.raises(ValueError, match="LCL_QDRANT_API_KEY"):
        Settings(home=tmp_path, qdrant_url=url)


def test_a_server_that_is_away_is_an_index_that_cannot_be_used(tmp_path):
    pytest.importorskip("qdrant_client", reason="the extra of index qdrant is not installed")
    settings = Settings(home=tmp_path, qdrant_url="http://127.0.0.1:9", qdrant_api_key="secret word")  # type: ignore[arg-type]
    index = INDEXES["qdrant"].index_class().at(IndexLocation("qdrant_1", DIM, settings=settings))
    with pytest.raises(UserError) as caught:
        index("images", QUERIES[0].tolist(), K, (), False)
    assert caught.value.code == "index_unusable"
    assert "secret" not in caught.value.message
    with pytest.raises(UserError) as failed:
        index.build("images", batches())
    assert (failed.value.code, failed.value.field) == ("qdrant_failed", "index")
