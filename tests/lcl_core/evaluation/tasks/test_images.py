"""Images and texts of a split: every image once, every text once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lcl_core.data import CaptionPair, open_corpus
from lcl_core.data.corpus.file_corpus import PairList
from lcl_core.evaluation.tasks.base import EvalImage, group_captions_by_image, read_images
from lcl_core.evaluation.tasks.retrieval import MAX_POSITIONS, caption_variants, unique_texts


def image(name: str, *captions: str) -> EvalImage:
    return EvalImage(name, captions, {})


def test_equal_captions_are_one_text_with_several_right_images() -> None:
    texts, pairs = unique_texts([image("a", "An ant"), image("b", "bee"), image("c", "an  ANT ")], 0)
    assert texts == ("An ant", "bee")
    assert pairs.tolist() == [[0, 0], [1, 1], [2, 0]]


def test_a_caption_twice_on_one_image_is_one_pair() -> None:
    texts, pairs = unique_texts([image("a", "ant", "ant", "bug")], None)
    assert texts == ("ant", "bug")
    assert pairs.tolist() == [[0, 0], [0, 1]]


def test_blank_and_missing_captions_are_no_texts() -> None:
    texts, pairs = unique_texts([image("a", "ant"), image("b", "bee", "bee: insect"), image("c", "cat", " ")], 1)
    assert texts == ("bee: insect",)
    assert pairs.tolist() == [[1, 0]]


def test_lines_of_one_image_are_one_image() -> None:
    lines = [
        CaptionPair("a", ("ant",), {"group": "bugs"}, "test", "", {}),
        CaptionPair("b", ("bee",), {}, "test", "", {}),
        CaptionPair("a", ("insect",), {"group": "other", "size": "small"}, "test", "", {}),
    ]
    assert group_captions_by_image(lines) == [
        EvalImage("a", ("ant", "insect"), {"group": "bugs", "size": "small"}),
        EvalImage("b", ("bee",), {}),
    ]


def test_descriptions_are_read_at_once_where_each_read_waits(squares: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, counts = open_corpus(squares), list[int]()
    expected = read_images(corpus, "test", None, field="splits.0")
    meeting = threading.Barrier(4, timeout=60)  # no description arrives before three others are under way
    read = PairList.__getitem__

    def describe(self: PairList, index: int) -> object:
        meeting.wait()
        return read(self, index)

    monkeypatch.setattr(corpus, "concurrent_reads", 4)
    monkeypatch.setattr(PairList, "describe", describe)
    assert read_images(corpus, "test", None, field="splits.0", advance=counts.append) == expected
    assert counts == [1] * 12


def test_variants_are_the_positions_and_all() -> None:
    names = [each.name for each in caption_variants([image("a", "ant", "ant: bug"), image("b", "bee")])]
    assert names == ["captions[0]", "captions[1]", "all"]
    assert [each.name for each in caption_variants([image("a", "ant")])] == ["captions[0]"]
    assert caption_variants([image("a")]) == []
    many = caption_variants([image("a", *(str(n) for n in range(20)))])
    assert len(many) == MAX_POSITIONS + 1
    assert len(many[-1].texts) == 20
