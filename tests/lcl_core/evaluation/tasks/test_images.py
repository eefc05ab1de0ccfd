"""Images and texts of a split: every image once, every text once."""

from lcl_core.data import CaptionPair
from lcl_core.evaluation.tasks.base import EvalImage, group_captions_by_image, split_validation
from lcl_core.evaluation.tasks.retrieval import MAX_POSITIONS, caption_variants, unique_texts


def image(name, *captions):
    return EvalImage(name, captions, {})


def test_equal_captions_are_one_text_with_several_right_images():
    texts, pairs = unique_texts([image("a", "An ant"), image("b", "bee"), image("c", "an  ANT ")], 0)
    assert texts == ("An ant", "bee")
    assert pairs.tolist() == [[0, 0], [1, 1], [2, 0]]


def test_a_caption_twice_on_one_image_is_one_pair():
    texts, pairs = unique_texts([image("a", "ant", "ant", "bug")], None)
    assert texts == ("ant", "bug")
    assert pairs.tolist() == [[0, 0], [0, 1]]


def test_blank_and_missing_captions_are_no_texts():
    texts, pairs = unique_texts([image("a", "ant"), image("b", "bee", "bee: insect"), image("c", "cat", " ")], 1)
    assert texts == ("bee: insect",)
    assert pairs.tolist() == [[1, 0]]


def test_lines_of_one_image_are_one_image():
    lines = [
        CaptionPair("a", ("ant",), {"group": "bugs"}, "test", "", {}),
        CaptionPair("b", ("bee",), {}, "test", "", {}),
        CaptionPair("a", ("insect",), {"group": "other", "size": "small"}, "test", "", {}),
    ]
    assert group_captions_by_image(lines) == [
        EvalImage("a", ("ant", "insect"), {"group": "bugs", "size": "small"}),
        EvalImage("b", ("bee",), {}),
    ]


def test_variants_are_the_positions_and_all():
    names = [each.name for each in caption_variants([image("a", "ant", "ant: bug"), image("b", "bee")])]
    assert names == ["captions[0]", "captions[1]", "all"]
    assert [each.name for each in caption_variants([image("a", "ant")])] == ["captions[0]"]
    assert caption_variants([image("a")]) == []
    many = caption_variants([image("a", *(str(n) for n in range(20)))])
    assert len(many) == MAX_POSITIONS + 1
    assert len(many[-1].texts) == 20


def test_a_seeded_tenth_of_the_training_images_is_held_out():
    test, train = split_validation(40, seed=1)
    assert (len(test), len(train)) == (4, 36)
    assert sorted([*test, *train]) == list(range(40))
    assert test.tolist() == split_validation(40, seed=1)[0].tolist() != split_validation(40, seed=2)[0].tolist()
    assert [len(part) for part in split_validation(3, seed=0)] == [1, 2]
    assert [len(part) for part in split_validation(3, seed=0, minimum=2)] == [2, 1]
