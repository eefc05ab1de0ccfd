"""Lines of a corpus, as the project's own readers take them."""

from __future__ import annotations

import json

from lcl_core.data.records import check_document, check_pair
from lcl_core.dataset_builder.documents import DocumentRow, PairRow, PlacedImage, json_line

PAIR = PairRow("a.webp", ("ä", "b"), {"k": "v"}, "train", "s", "MIT")


def test_a_pair_says_what_it_has_and_comes_back() -> None:
    facts = PAIR.to_json()
    assert list(facts) == ["image", "captions", "labels", "split", "source", "licence"]
    full = PairRow("a", ("b",), {}, "val", "s", "MIT", vendor="v", keywords=(), long="l", name="n")
    assert list(full.to_json()) == [
        "image", "captions", "name", "keywords", "long", "labels", "vendor", "split", "source", "licence",
    ]  # fmt: skip
    for pair in (PAIR, full):
        assert PairRow.from_json(json.loads(json_line(pair.to_json()))) == pair
        assert check_pair(pair.to_json()) is None
    assert "ä" in json_line(facts)


def test_a_document_is_one_of_mmc4() -> None:
    facts = DocumentRow("u", "s", "MIT", ("One.", "Two."), (PlacedImage("a.webp", 1, 0, "alt"),)).to_json()
    assert check_document(facts) is None
    assert facts["image_info"] == [
        {
            "image_name": "a.webp", "raw_url": None, "matched_text_index": 1, "matched_sim": 1.0, "insert_before": 0,
            "alt": "alt",
        },
    ]  # fmt: skip
