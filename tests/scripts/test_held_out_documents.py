"""Captioned images out of held-out documents, from a small corpus, read as any corpus is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lcl_core.data import open_corpus
from scripts.held_out_documents import make

pytestmark = pytest.mark.extended


def document(source: str, *images: tuple[str, str]) -> str:
    """``images``: name and matched sentence of each."""
    infos = [{"image_name": name, "matched_text_index": at, "matched_sim": 1.0} for at, (name, _) in enumerate(images)]
    texts = [text for _, text in images]
    return json.dumps({"source": source, "licence": "CC0", "text_list": texts, "image_info": infos})


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "interleaved").mkdir(parents=True)
    (folder / "images" / "a").mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / "images" / "a" / f"{number}.png")
    val = [document("manual", ("a/0.png", "A pump."), ("a/1.png", "A valve."))]
    train = [
        document("manual", ("a/1.png", "Another valve."), ("a/2.png", "A gauge.")),
        document("emoji", ("a/3.png", "A cat.")),
        document("manual", ("a/4.png", "A tube."), ("a/2.png", "The gauge again.")),
    ]
    (folder / "interleaved" / "val.jsonl").write_text("\n".join(val) + "\n")
    (folder / "interleaved" / "train.jsonl").write_text("\n".join(train) + "\n")
    return folder


@pytest.mark.parametrize(
    ("shared", "split", "sentence"), [("train", "train", "Another valve."), ("val", "val", "A valve.")]
)
def test_each_image_has_its_sentence_and_one_split(
    corpus: Path, tmp_path: Path, shared: str, split: str, sentence: str
) -> None:
    """One that training documents show too is no image that an encoder has not seen."""
    out = tmp_path / "out"
    for _ in range(2):  # again over what is there
        assert make(corpus, out, shared) == {"val": 1, "train": 2} | {split: 2 if split == "val" else 3}
    pairs = [json.loads(line) for line in (out / "pairs" / "documents.jsonl").read_text().splitlines()]
    assert {pair["image"]: (pair["split"], pair["captions"]) for pair in pairs} == {
        "a/0.png": ("val", ["A pump."]),
        "a/1.png": (split, [sentence]),
        "a/2.png": ("train", ["A gauge."]),
        "a/4.png": ("train", ["A tube."]),
    }


def test_it_is_a_corpus_with_the_notices_of_the_other(corpus: Path, tmp_path: Path) -> None:
    (corpus / "NOTICE").write_text("who drew it")
    (corpus / "licences" / "manual").mkdir(parents=True)
    (corpus / "licences" / "manual" / "LICENSE").write_text("CC0")
    for _ in range(2):
        make(corpus, tmp_path / "out")
    assert (tmp_path / "out" / "NOTICE").read_text() == "who drew it"
    assert (tmp_path / "out" / "licences" / "manual" / "LICENSE").read_text() == "CC0"
    found = open_corpus(tmp_path / "out")
    assert found.splits() == {"val": 1, "train": 3}
    assert len(found.documents) == 0
