"""The benchmark of an index, on a small one: its figures mean what they say."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

pytest.importorskip("lancedb")

from benchmarks import vector_index
from lcl_core.common.errors import UserError

pytestmark = pytest.mark.extended


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    vector_index.add_arguments(parser)
    return parser.parse_args(["--width", "24", "--intrinsic", "8", "--queries", "20", "--rate", "200", *arguments])


def test_an_index_is_built_and_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # so many rows that no query has two tenth neighbours that half precision does not part
    vector_index.main(options("--rows", "650", "--out", str(tmp_path / "made")))
    report = json.loads(capsys.readouterr().out)
    assert report["build_seconds"] >= 0
    assert report["build_cpu_seconds"] >= 0
    figures = report["built"]
    assert figures["recall_at_10"] == 1.0  # a table of this size is compared row by row
    assert figures["last_row_is_found"]
    assert 0 < figures["steady"]["p50_ms"] <= figures["steady"]["p99_ms"]
    assert figures["filter_0.01"]["p50_ms"] > 0
    assert figures["rss_gib"] >= figures["rss_gib_before"] > 0
    assert 0 < figures["anonymous_gib"] < figures["rss_gib"]


def test_an_index_that_is_there_is_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = options("--rows", "300", "--out", str(tmp_path / "made"))
    vector_index.main(chosen)
    capsys.readouterr()
    vector_index.main(chosen)
    assert "build_seconds" not in json.loads(capsys.readouterr().out)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(UserError, match="positive"):
        vector_index.main(options("--rows", "0"))
