"""Pages cut into pieces, images matched to sentences, and images grouped by topic."""

from __future__ import annotations

from typing import Any

from lcl_core.data.formats.html.parser import ImageItem, PageItem, TextItem
from lcl_core.dataset_builder.documents import (
    PairRow,
    PlacedImage,
    build_documents,
    group_documents,
    hash_fraction,
)

WORDS = "Here are quite a few words that say nothing much at all."  # twelve


def text(words: str) -> PageItem:
    return TextItem(words, block=0)


def image(name: str, alt: str = "", *captions: str) -> PageItem:
    return ImageItem((name,), alt, block=0, captions=list(captions))


def images_after(number: int, words: str) -> list[PageItem]:
    """So many images, the text before each."""
    return [item for index in range(number) for item in (text(words), image(str(index)))]


def only(items: list[PageItem]) -> tuple[list[str], list[PlacedImage]]:
    (document,) = build_documents(items)
    return document


def test_a_image_goes_to_its_caption() -> None:
    texts, (placed,) = only([text(WORDS), image("a", "alt", "A lid"), text("After that.")])
    assert texts == [WORDS, "A lid", "After that."]
    assert placed == PlacedImage("a", sentence=1, before=1, alt="alt")


def test_without_one_to_the_sentence_before_then_the_one_after() -> None:
    _, placed = only([text(WORDS), image("a"), image("b"), text("Then come some more.")])
    assert [(each.image, each.sentence, each.before) for each in placed] == [("a", 0, 1), ("b", 1, 1)]
    assert only([image("a"), text(WORDS)])[1] == [PlacedImage("a", 0, 0)]


def test_no_sentence_is_matched_twice_and_a_image_too_many_is_left_out() -> None:
    _, placed = only([text(WORDS), *(image(name) for name in "abcd")])
    assert [(each.image, each.sentence) for each in placed] == [("a", 0)]


def test_a_page_is_cut_at_eight_images_and_at_so_many_words() -> None:
    many = images_after(10, WORDS)
    first, second = build_documents(many)
    assert [each.image for each in first[1]] == list("01234567")
    assert [each.image for each in second[1]] == ["8"], "the last one finds no sentence that is free"
    long = images_after(4, " ".join([WORDS] * 12))
    assert [[each.image for each in placed] for _, placed in build_documents(long)] == [["0", "1"], ["2", "3"]]
    assert len(list(build_documents(long, max_words=600))) == 1


def test_what_has_few_words_or_no_image_is_no_document() -> None:
    assert list(build_documents([text("Too short."), image("a")])) == []
    assert list(build_documents([text(WORDS)])) == []
    assert list(build_documents([])) == []


def pair(image: str, topic: str = "t", split: str = "train") -> PairRow:
    return PairRow(image, (image, f"{image}: more"), {"topic": topic}, split, "made", "MIT")


def groups(pairs: list[PairRow], **more: Any) -> list[Any]:
    return list(
        group_documents(pairs, lambda pair: pair.labels["topic"], lambda pair: pair.captions[-1:], "MIT", **more)
    )


def test_images_of_one_topic_stand_together_in_an_order_of_their_names() -> None:
    names = [f"{number}.webp" for number in range(8)]
    first, second = groups([pair(name) for name in names], title=lambda topic: f"{topic}.")
    ordered = sorted(names, key=lambda name: hash_fraction(f"order:{name}"))
    assert [placed.image for document in (first, second) for placed in document.images] == ordered
    assert first.sentences == ("t.", *(f"{name}: more" for name in ordered[:6]))
    assert first.images[0] == PlacedImage(ordered[0], 1, 1)
    assert (first.url, second.url, first.licence) == ("made:t/0", "made:t/6", "MIT")
    assert groups([pair(name) for name in reversed(names)], title=lambda topic: f"{topic}.") == [first, second]


def test_held_out_images_and_single_ones_are_in_no_document() -> None:
    assert groups([pair("a"), pair("b", split="test"), pair("c", topic="u")]) == []
    (document,) = groups([pair("a"), pair("b", split="val"), pair("c")])
    assert {placed.image for placed in document.images} == {"a", "c"}
