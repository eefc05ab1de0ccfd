"""The sample: what is in the one that ships is what these rules choose and lay out."""

from __future__ import annotations

import hashlib
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


FIRST = 3835  # lines of the first sample


@pytest.fixture(scope="module")
def shipped(sample_zip: Path) -> dict[str, list[PairRow]]:
    """The pairs of the sample that ships, by source; ``extra``: those that came later."""
    found: dict[str, list[PairRow]] = {"emoji": [], "openclipart": [], "extra": []}
    for number, line in enumerate(lines(sample_zip, "pairs.jsonl")):
        found[line["source"] if number < FIRST else "extra"].append(PairRow.from_json(line))
    return found


def test_its_pairs_come_back_line_by_line(shipped: dict[str, list[PairRow]], sample_zip: Path) -> None:
    rows = [pair.to_json() for pair in [*shipped["emoji"], *shipped["openclipart"], *shipped["extra"]]]
    assert rows == lines(sample_zip, "pairs.jsonl")


def test_the_rules_choose_its_images_in_its_order(shipped: dict[str, list[PairRow]]) -> None:
    emoji, clipart, extra = shipped["emoji"], shipped["openclipart"], shipped["extra"]
    assert (len(emoji), len(clipart), len(extra)) == (3235, 600, 1562)
    assert build.select_emoji(sorted([*emoji, *extra], key=lambda pair: pair.image)) == emoji
    assert build.select_clipart(sorted(clipart, key=lambda pair: pair.image)) == clipart
    as_built = [replace(pair, split={"extra": "train"}.get(pair.split, pair.split)) for pair in [*extra, *emoji]]
    assert build.select_extra(sorted(as_built, key=lambda pair: pair.image), emoji) == extra


def test_lines_of_the_first_sample_stay_as_they_were(sample_zip: Path) -> None:
    """So a run that began with it goes on as it would have: documents, and what its splits hold, byte by byte."""
    with zipfile.ZipFile(sample_zip) as opened:
        pairs = opened.read("pairs.jsonl").splitlines(keepends=True)
        digests = [
            hashlib.sha256(part).hexdigest() for part in (opened.read("interleaved.jsonl"), b"".join(pairs[:FIRST]))
        ]
        images = hashlib.sha256()
        for line in pairs[:FIRST]:
            images.update(opened.read(f"images/{json.loads(line)['image']}"))
    assert [*digests, images.hexdigest()] == [
        "e3d3ddd2a31db108387c0cbeb90717000dcfaedf083f4298def644dc1c7936be",
        "c7e1a2978bbf4602452f5275c8a211b2c76b5c626a81ae3326a53435de6f6d26",
        "67300f10b8d435bf4e2e23994a47ac249dad889898beaedc95fabc6255a1274b",
    ]  # fmt: skip
    assert {json.loads(line)["split"] for line in pairs[FIRST:]} == {"extra", "val"}


def test_what_came_later_are_faces_and_further_drawings_by_teams_that_train_or_validate(
    shipped: dict[str, list[PairRow]],
) -> None:
    faces = [pair for pair in shipped["extra"] if pair.labels["group"] == "smileys & emotion"]
    assert sum("crying face" in pair.labels["concept"] for pair in faces) >= 8
    vendors = {pair.vendor: pair.split for pair in shipped["extra"]}
    assert vendors == {
        **dict.fromkeys(("twemoji", "noto", "noto-v1", "emojione", "fxemoji"), "extra"), "streamline": "val",
    }  # fmt: skip
    held_out = [replace(pair, split="test_concept") for pair in shipped["extra"]]
    assert build.select_extra(held_out, []) == []


def test_a_drawing_that_is_mostly_one_colour_says_so(shipped: dict[str, list[PairRow]]) -> None:
    colours = {(pair.labels["concept"], pair.vendor): pair.attributes for pair in shipped["extra"]}
    assert colours["crying face", "noto"] == ("yellow",)
    assert colours["automobile", "fxemoji"] is not None
    assert colours["red heart", "noto"] is None, "its name says the colour"


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
    assert len(corpus.pairs()) == figures["pictures"] == 11
    assert len(corpus.documents) == figures["documents"]
    for pair in corpus.pairs():
        image = corpus.read_image(pair.image)
        assert isinstance(image, Image.Image)
        assert max(image.size) <= 64
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "one.zip", "two.zip"}
