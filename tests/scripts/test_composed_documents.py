"""Composed documents, from a small corpus: what stands before an image, and that training can read them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data import open_corpus
from lcl_core.data.sampling.interleave import choose_images, draw_image_sides, place_images
from scripts.composed_documents import main, make

pytestmark = pytest.mark.extended

Json = dict[str, Any]
SENTENCES = ["The pump is below the tank.", "Turn the valve to the left."]


def pair(name: str, split: str = "train") -> Json:
    return {"image": f"a/{name}.png", "captions": [f"a {name}"], "split": split, "source": "drawings", "licence": "CC0"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    for part in ("interleaved", "pairs", "images/a"):
        (folder / part).mkdir(parents=True)
    pairs = [pair(f"thing {number}") for number in range(10)] + [pair("secret", "test")]
    for each in pairs:
        Image.new("RGB", (8, 8)).save(folder / "images" / each["image"])
    write_lines(folder / "pairs" / "drawings.jsonl", pairs)
    matched = {"image_name": "a/thing 0.png", "matched_text_index": 0, "matched_sim": 1.0}
    texts = ["This sentence is matched to an image.", *SENTENCES, "Too short.", "no capital at the beginning here."]
    document = {"text_list": texts, "image_info": [matched], "licence": "GPL-2"}
    write_lines(folder / "interleaved" / "train.jsonl", [document])
    (folder / "NOTICE").write_text("who drew it")
    return folder


def write_lines(path: Path, lines: list[Json]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read(out: Path) -> list[Json]:
    return [json.loads(line) for line in (out / "interleaved" / "train.jsonl").read_text().splitlines()]


def test_each_training_image_is_once_in_each_pass(corpus: Path, tmp_path: Path) -> None:
    counts = make(corpus, tmp_path / "out", ["drawings"], passes=2, seed=0)
    assert counts == {"documents": 6, "images": 10, "sentences": 2}  # 4, 4 and 2 images, twice
    documents = read(tmp_path / "out")
    first, second = (
        [image["image_name"] for document in part for image in document["image_info"]]
        for part in (documents[:3], documents[3:])
    )
    assert sorted(first) == sorted(second) == sorted(pair(f"thing {number}")["image"] for number in range(10))
    assert first != second


def test_captions_and_sentences_alternate(corpus: Path, tmp_path: Path) -> None:
    make(corpus, tmp_path / "out", ["drawings"], passes=1, seed=0)
    assert (tmp_path / "out" / "NOTICE").read_text() == "who drew it"
    for document in read(tmp_path / "out"):
        texts, images = document["text_list"], document["image_info"]
        assert document["licence"] == "CC0, GPL-2"
        assert all(text in SENTENCES for text in texts[::2])
        assert [image["matched_text_index"] for image in images] == list(range(1, len(texts), 2))
        for image, caption in zip(images, texts[1::2], strict=True):
            assert image["image_name"] == f"a/{caption.removeprefix('a ').removesuffix('.')}.png"


@pytest.mark.parametrize("image_first", [0.0, 1.0])
def test_the_probability_of_an_image_first_decides_what_stands_before_it(
    corpus: Path, tmp_path: Path, image_first: float
) -> None:
    make(corpus, tmp_path / "out", ["drawings"], passes=1, seed=0)
    found = open_corpus(tmp_path / "out")
    assert len(found.documents) == 3
    draw = random.Random(0)
    for document in read(tmp_path / "out"):
        images = choose_images(document, threshold=0.24, max_images=6, draw=draw)
        sides = draw_image_sides(draw, image_first, len(images))
        placed = place_images(document["text_list"], images, sides).segments
        for number, segment in enumerate(placed):
            name = getattr(segment, "name", None)
            if name is not None:
                own = f"a {Path(name).stem}."
                before = [getattr(each, "text", None) for each in placed[:number]]
                assert before, "every image has a context"
                assert (own in before) == (image_first == 0)


def test_the_seed_decides_the_order(corpus: Path, tmp_path: Path) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(corpus, tmp_path / out, ["drawings"], passes=1, seed=seed)
    assert read(tmp_path / "a") == read(tmp_path / "b") != read(tmp_path / "c")


def test_errors_name_the_file(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"pairs/icons\.jsonl: there is no such file"):
        make(corpus, tmp_path / "out", ["icons"], passes=1, seed=0)
    write_lines(corpus / "pairs" / "icons.jsonl", [pair("secret", "test")])
    with pytest.raises(UserError, match=r"icons\.jsonl: it has no captioned image of the split train"):
        make(corpus, tmp_path / "out", ["icons"], passes=1, seed=0)
    write_lines(corpus / "interleaved" / "train.jsonl", [{"text_list": ["No."], "image_info": []}])
    with pytest.raises(UserError, match="no document has a sentence without an image"):
        make(corpus, tmp_path / "out", ["drawings"], passes=1, seed=0)
    monkeypatch.setattr("sys.argv", ["composed_documents", str(tmp_path / "nowhere"), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"nowhere/interleaved/train\.jsonl: there is no such file"):
        main()
