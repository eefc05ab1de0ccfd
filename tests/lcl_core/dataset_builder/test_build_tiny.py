"""The sample: what is in the one that ships is what these rules choose and lay out."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl_core.data import open_corpus
from lcl_core.dataset_builder import build
from lcl_core.dataset_builder.documents import PairRow
from lcl_core.dataset_builder.packages import PackageCache
from lcl_core.dataset_builder.sources import SOURCES
from lcl_core.dataset_builder.sources.emoji import emoji_documents
from lcl_core.dataset_builder.sources.openclipart import clipart_documents
from tests.lcl_core.dataset_builder.sources import packages


def lines(bundle: Path, name: str) -> list[dict[str, Any]]:
    with zipfile.ZipFile(bundle) as opened:
        return [json.loads(line) for line in opened.read(name).decode().split("\n")[:-1]]


@pytest.fixture(scope="module")
def shipped(sample_zip: Path) -> dict[str, list[PairRow]]:
    """The pairs of the sample that ships, by source."""
    found: dict[str, list[PairRow]] = {"emoji": [], "openclipart": []}
    for line in lines(sample_zip, "pairs.jsonl"):
        found[line["source"]].append(PairRow.from_json(line))
    return found


def test_its_pairs_come_back_line_by_line(shipped: dict[str, list[PairRow]], sample_zip: Path) -> None:
    rows = [pair.to_json() for pair in [*shipped["emoji"], *shipped["openclipart"]]]
    assert rows == lines(sample_zip, "pairs.jsonl")


def test_the_rules_choose_its_images_in_its_order(shipped: dict[str, list[PairRow]]) -> None:
    emoji, clipart = shipped["emoji"], shipped["openclipart"]
    assert (len(emoji), len(clipart)) == (3235, 600)
    assert build.select_emoji(sorted(emoji, key=lambda pair: pair.image)) == emoji
    assert build.select_clipart(sorted(clipart, key=lambda pair: pair.image)) == clipart


def test_its_documents_are_those_of_its_pairs(shipped: dict[str, list[PairRow]], sample_zip: Path) -> None:
    documents = [*emoji_documents(shipped["emoji"]), *clipart_documents(shipped["openclipart"])]
    assert [document.to_json() for document in documents] == lines(sample_zip, "interleaved.jsonl")


def test_a_concept_that_a_team_lacks_and_another_group_are_left_out(shipped: dict[str, list[PairRow]]) -> None:
    first, other = shipped["emoji"][:5], shipped["emoji"][5:9]
    assert build.select_emoji([*other, *first]) == first
    people = [replace(pair, labels={**pair.labels, "group": "people & body"}) for pair in first]
    assert build.select_emoji(people) == []


def test_the_bundle_is_a_corpus_and_the_same_bytes_each_time(
    kit: Any, said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("resvg_py")
    clipart = {
        "openclipart-png": {
            f"usr/share/openclipart/png/food/fruit_{name}.png": kit.draw_image(name, (200, 100))
            for name in ("red", "green", "gold", "pink", "cyan", "navy")
        }
    }
    sources = {
        "emoji": kit.packed(SOURCES["emoji"], packages.EMOJI),
        "openclipart": kit.packed(SOURCES["openclipart"], clipart),
    }
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setattr(build, "TINY_VENDORS", ("twemoji",))
    for name in ("one.zip", "two.zip"):
        figures = build.build_tiny(PackageCache(kit.cache, False, said[1]), tmp_path / name, said[1])
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    corpus = open_corpus(tmp_path / "one.zip")
    assert len(corpus.pairs()) == figures["pictures"] == 9
    assert len(corpus.documents) == figures["documents"]
    for pair in corpus.pairs():
        image = corpus.read_image(pair.image)
        assert isinstance(image, Image.Image)
        assert max(image.size) <= 64
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "one.zip", "two.zip"}
