"""Exact search against the plain definition: score everything, sort everything."""

from __future__ import annotations

import numpy as np
import pytest

from lcl_core.collections import vector_index as module
from lcl_core.collections.vector_index import nearest


def plain(vectors, query, k):
    scores = vectors.astype(np.float32) @ query
    return sorted(range(len(vectors)), key=lambda row: (-scores[row], row))[:k]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("k", [1, 7, 40, 1000])
def test_blocks_give_what_a_full_sort_gives(dtype, k, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 16)
    random = np.random.default_rng(0)
    vectors = random.normal(size=(101, 12)).astype(dtype)
    query = random.normal(size=12).astype(np.float32)
    rows, scores = nearest(vectors, query, k)
    assert rows.tolist() == plain(vectors, query, k)
    assert np.allclose(scores, vectors.astype(np.float32)[rows] @ query, atol=1e-5)


def test_of_equal_scores_the_lower_row_wins(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 4)
    vectors = np.ones((30, 2), np.float32)
    vectors[17] *= 2
    rows, _ = nearest(vectors, np.ones(2, np.float32), 5)
    assert rows.tolist() == [17, 0, 1, 2, 3]


def test_only_the_given_rows_are_looked_at(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 3)
    vectors = np.arange(20, dtype=np.float32)[:, None]
    rows, scores = nearest(vectors, np.ones(1, np.float32), 3, np.array([0, 2, 3, 5, 8, 11]))
    assert rows.tolist() == [11, 8, 5]
    assert scores.tolist() == [11, 8, 5]
