"""The benchmark of large collections, on a small one: its figures mean what they say."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import collection
from lcl_core.collections import vector_index
from lcl_core.common.errors import UserError

pytestmark = pytest.mark.extended


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    collection.add_arguments(parser)
    return parser.parse_args(["--width", "24", "--intrinsic", "8", *arguments])


def test_a_collection_is_made_searched_and_used_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_index, "EXACT_ROWS", 1000)
    chosen = options("--rows", "2000", "--queries", "40", "--compared", "20", "--out", str(tmp_path / "made"))
    collection.main(chosen)
    first = json.loads(capsys.readouterr().out)
    assert (tmp_path / "made" / "image_graph.usearch").is_file()
    assert first["rows"] == 2000
    assert first["recall_at_10"] > 0.9
    assert first["queries_per_s"] > 0
    assert 0 < first["p50_ms"] <= first["p99_ms"]
    assert first["rss_gib"] >= first["rss_gib_before"] > 0
    collection.main(chosen)
    again = json.loads(capsys.readouterr().out)
    assert again["made_seconds"] is None
    assert again["recall_at_10"] == first["recall_at_10"]


def test_its_vectors_have_neighbours_and_come_from_the_seed() -> None:
    rows = np.concatenate(list(collection.vectors(3000, 24, 8, seed=3)))
    again = np.concatenate(list(collection.vectors(3000, 24, 8, seed=3)))
    other = np.concatenate(list(collection.vectors(3000, 24, 8, seed=3, draw=1)))
    assert np.array_equal(rows, again)
    assert not np.allclose(rows, other)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    spread = np.linalg.svd(rows, compute_uv=False) ** 2
    assert spread[:8].sum() > 0.97 * spread.sum()


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="positive"):
        collection.main(options("--rows", "0"))
