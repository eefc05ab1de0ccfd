"""What a LanceDB index keeps in memory: the tables of a process share one cache of a fixed size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="the extra of index lancedb is not installed")

from lcl_core.collections import lancedb_index, vector_index
from lcl_core.collections.lancedb_index import LanceIndex
from lcl_core.collections.vector_index import nearest

ROWS, DIM, K = 3000, 64, 5


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The caches that were made: those of this test only."""
    import lancedb

    made: list[Any] = []
    real = lancedb.Session
    monkeypatch.setattr(lancedb, "Session", lambda **sizes: made.append(real(**sizes)) or made[-1])
    monkeypatch.setattr(vector_index, "EXACT_ROWS", 500)
    lancedb_index._session.cache_clear()
    yield made
    lancedb_index._session.cache_clear()


def vectors(seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(ROWS, DIM))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


def search_everywhere(place: Path, seed: int) -> None:
    """Build an index and visit all of its partitions; the nearest row is found all the same."""
    known = vectors(seed)
    index = LanceIndex(str(place / str(seed)), DIM)
    index.build("images", [(range(ROWS), [f"{row}.png" for row in range(ROWS)], known)])
    for row in range(0, ROWS, 60):
        query = known[row].astype(np.float32)
        assert row in index("images", query.tolist(), K, (), False)
        assert nearest(known, query, 1)[0][0] == row


@pytest.mark.parametrize("bounded", [True, False])
def test_tables_share_a_cache_of_a_fixed_size(
    tmp_path: Path, sessions: list[Any], bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 32 << 10
    if bounded:
        monkeypatch.setattr(lancedb_index, "INDEX_CACHE_BYTES", limit)
        monkeypatch.setattr(lancedb_index, "METADATA_CACHE_BYTES", limit)
    for seed in range(2):
        search_everywhere(tmp_path, seed)
    assert len(sessions) == 1
    assert (sessions[0].size_bytes <= 2 * limit) == bounded, "two indexes are larger than that"
