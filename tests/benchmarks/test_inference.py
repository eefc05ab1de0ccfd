"""The benchmarks of inference, on little: everything is answered, and the figures hang together."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import embeddings, inferences, searches
from lcl_core.collections.writer import CollectionItem, build_collection
from lcl_core.common.errors import UserError

pytestmark = pytest.mark.extended


def options(module: Any, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return argparse.Namespace(**vars(parser.parse_args(arguments)), database="sqlite")


def made(place: Path, width: int) -> Path:
    vectors = np.random.default_rng(0).standard_normal((50, width))
    items = [CollectionItem(f"{number}.png", b"", "image/png") for number in range(50)]
    build_collection(place, items, vectors, {}, name="made up", encoder_hash="0" * 64)
    return place


def test_images_are_embedded_by_all(python_with_infinity: str) -> None:
    few = ("--requests", "16", "--warm-up", "4", "--clients", "4", "--few", "2")
    infinity = ("--infinity", python_with_infinity, "--infinity-settings", "int8", "--infinity-batches", "8")
    report = embeddings.measure(options(embeddings, "--model", "tiny", "--plain", "ViT-S-32-alt", *few, *infinity))
    (beside,) = report["infinity"]
    ours = [report[what][who] for what in ("images", "texts") for who in ("many", "few", "one")]
    for load in (*ours, report["plain"], beside):
        assert load["wrong"] == {}
        assert 0 < load["p50_ms"] <= load["p99_ms"]
    for what in ("images", "texts"):
        few, one = report[what]["few"]["items_per_s"], report[what]["one"]["items_per_s"]
        assert report[what]["gain"] == pytest.approx(few / one, rel=0.01)
    many = report["images"]["many"]["items_per_s"]
    assert report["ratio"] == pytest.approx(many / report["plain"]["items_per_s"], rel=0.01)
    assert (beside["setting"], beside["batch"]) == ("int8", 8)
    assert report["ratio_infinity"] == beside["ratio"] == pytest.approx(many / beside["items_per_s"], abs=0.01)


def test_texts_are_searched_for(tmp_path: Path) -> None:
    few = ("--requests", "24", "--warm-up", "4", "--clients", "4", "--rate", "40")
    report = searches.measure(options(searches, "--collection", str(made(tmp_path / "made", 512)), *few))
    assert report["vectors"] == 50
    for load in (report["flat_out"], report["steady"]):
        assert load["wrong"] == {}
        assert 0 < load["p50_ms"] <= load["p99_ms"]
    assert report["api_gib"] > 0


def test_a_collection_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--width 512"):
        searches.measure(options(searches, "--collection", str(made(tmp_path / "made", 8))))


def test_bad_images_are_refused_among_good_ones() -> None:
    few = ("--model", "tiny", "--first", "40", "--requests", "100", "--clients", "4")
    report = inferences.measure(options(inferences, *few))
    assert (report["of_them_bad"], report["wrong"]) == (5, {})
    assert report["resident_mib"][0] > 0
