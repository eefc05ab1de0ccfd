"""Pictures and texts of a split: every picture once, every text once."""

from __future__ import annotations

from lcl_core.data import CaptionPair
from lcl_core.evaluation.tasks.base import EvalImage, group_captions_by_image, unique_texts
from lcl_core.evaluation.tasks.retrieval import MAX_POSITIONS, caption_variants


def picture(image: str, *captions: str) -> EvalImage:
    return EvalImage(image, captions, {})


def test_equal_captions_are_one_text_with_several_right_pictures() -> None:
    got = unique_texts([picture("a", "An ant"), picture("b", "bee"), picture("c", "an  ANT ")], 0)
    assert got.texts == ("An ant", "bee")
    assert got.pairs.tolist() == [[0, 0], [1, 1], [2, 0]]


def test_a_caption_twice_on_one_picture_is_one_pair() -> None:
    got = unique_texts([picture("a", "ant", "ant", "bug")], None)
    assert got.texts == ("ant", "bug")
    assert got.pairs.tolist() == [[0, 0], [0, 1]]


def test_blank_and_missing_captions_are_no_texts() -> None:
    got = unique_texts([picture("a", "ant"), picture("b", "bee", "bee: insect"), picture("c", "cat", " ")], 1)
    assert got.texts == ("bee: insect",)
    assert got.pairs.tolist() == [[1, 0]]


def test_lines_of_one_image_are_one_picture() -> None:
    lines = [
        CaptionPair("a", ("ant",), {"group": "bugs"}, "test", "", {}),
        CaptionPair("b", ("bee",), {}, "test", "", {}),
        CaptionPair("a", ("insect",), {"group": "other", "size": "small"}, "test", "", {}),
    ]
    assert group_captions_by_image(lines) == [
        EvalImage("a", ("ant", "insect"), {"group": "bugs", "size": "small"}),
        EvalImage("b", ("bee",), {}),
    ]


def test_variants_are_the_positions_and_all() -> None:
    names = [each.name for each in caption_variants([picture("a", "ant", "ant: bug"), picture("b", "bee")])]
    assert names == ["captions[0]", "captions[1]", "all"]
    assert [each.name for each in caption_variants([picture("a", "ant")])] == ["captions[0]"]
    assert caption_variants([picture("a")]) == []
    many = caption_variants([picture("a", *(str(n) for n in range(20)))])
    assert len(many) == MAX_POSITIONS + 1
    assert len(many[-1].texts.texts) == 20
