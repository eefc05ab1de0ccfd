"""Exact search against the plain definition: score everything, sort everything."""

from __future__ import annotations

import re
from pathlib import Path

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
    rows, scores = nearest(vectors, np.ones(1, np.float32), 3, np.array([0, 2, 5, 8, 11, 3]))
    assert rows.tolist() == [11, 8, 5]
    assert scores.tolist() == [11, 8, 5]


class ProposedRows:
    """A search function with a fixed answer."""

    def __init__(self, *rows):
        self._rows = rows

    def __call__(self, target, query, k, rows, among):
        return self._rows


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "vectors.bin"
    np.random.default_rng(0).normal(size=(400, 8)).astype(np.float16).tofile(path)
    return path


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says how a file is mapped")
def test_single_rows_are_read_without_what_lies_around_them(file):
    vectors = np.memmap(file, np.float16, "r").reshape(-1, 8)
    rows = module.map_single_rows(file, vectors)
    assert np.array_equal(rows, vectors)
    mappings = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    flags = [mapping.rpartition("VmFlags:")[2].split() for mapping in mappings if str(file) in mapping]
    assert sorted("rr" in each for each in flags) == [False, True], "the other mapping is for passes over all rows"


@pytest.mark.parametrize(("rows", "single"), [(None, False), ([3, 300, 399], True), (range(0, 400, 2), False)])
def test_few_rows_that_an_index_misses_are_read_singly(file, rows, single):
    vectors, query = np.memmap(file, np.float16, "r").reshape(-1, 8), np.ones(8, np.float32)
    without = np.zeros_like(vectors)  # whose scores show from which array rows were read
    chosen = None if rows is None else np.array(rows)
    expected = nearest(vectors, query, 3, chosen)
    for single_rows, others in ((without, vectors), (vectors, without)):
        index = module.ExternalIndex(ProposedRows(), "images", others, single_rows)
        found = index.nearest(query, 3, chosen)
        assert np.array_equal(found[1], expected[1]) == (single == (single_rows is vectors))


def test_proposed_rows_are_ranked_by_single_rows(file):
    vectors = np.memmap(file, np.float16, "r").reshape(-1, 8)
    index = module.ExternalIndex(ProposedRows(7, 390), "images", np.zeros_like(vectors), vectors)
    rows, scores = index.nearest(np.ones(8, np.float32), 2)
    assert sorted(rows.tolist()) == [7, 390]
    assert np.allclose(scores, np.sort(vectors[[7, 390]].astype(np.float32).sum(1))[::-1])
