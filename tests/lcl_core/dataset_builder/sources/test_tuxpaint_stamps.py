"""Stamps with a sentence each."""

from __future__ import annotations

from typing import Any

import pytest

from lcl_core.dataset_builder.sources.tuxpaint_stamps import SOURCE

ROOT = "usr/share/tuxpaint/stamps"


def test_stamps_with_a_sentence_become_pairs_and_documents(kit: Any) -> None:
    pytest.importorskip("resvg_py")
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><rect width="9" height="9" fill="teal"/></svg>'
    files: dict[str, bytes | str] = {}
    for number in range(12):
        stem = f"{ROOT}/animals/birds/bird {number}"
        files[f"{stem}.png"] = kit.draw_image(f"#{number * 20:02x}4080")
        files[f"{stem}.txt"] = f"Bird &amp; number {number}.\nja.utf8=x\n"
    files |= {
        f"{ROOT}/animals/birds/bird 0_mirror.png": kit.draw_image("red"),
        f"{ROOT}/animals/birds/bird 1.svg": svg,
        f"{ROOT}/animals/nameless.png": kit.draw_image("red"),
        f"{ROOT}/animals/blank.png": kit.draw_image("red"),
        f"{ROOT}/animals/blank.txt": "\nnot the first line",
        f"{ROOT}/town/house.svg": svg,
        f"{ROOT}/town/house.txt": "A house.",
        f"{ROOT}/town/broken.png": b"broken",
        f"{ROOT}/town/broken.txt": "A ruin.",
    }
    built = SOURCE.build(kit.source_files(SOURCE, {"tuxpaint-stamps-default": files}))
    names = [f"stamps/animals/birds/bird_{number}.webp" for number in (0, 1, 10, 11, *range(2, 10))]
    assert [pair.image for pair in built.pairs] == [*names, "stamps/town/house.webp"]
    first = built.pairs[0]
    assert first.captions == ("Bird & number 0.",)
    assert first.labels == {"category": "animals", "subcategory": "animals/birds"}
    train = {pair.image for pair in built.pairs if pair.split == "train"}
    shown = {placed.image for document in built.documents for placed in document.images}
    assert shown
    assert shown <= train - {"stamps/town/house.webp"}
    assert built.documents[0].sentences[0].startswith("Bird & number"), "no title"
