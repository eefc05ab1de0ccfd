"""MMC4 documents and captioned images as token sequences."""

import json
import random
from collections import Counter

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import Document, ImageSegment, TextSegment, clip_tokenizer, render_pair
from tests.lcl_core.data.mmc4_rendering import render_mmc4

N = 4
SENTENCES = ["a red square", "a green square", "a blue square"]


@pytest.fixture
def render(tokenizer):
    def call(doc, context_length=200, **named):
        return render_mmc4(doc, tokenizer, num_image_tokens=N, context_length=context_length, **named)

    return call


@pytest.fixture
def expected(tokenizer):
    """Ids from a readable layout: texts, and ``IMG`` for an image's block."""

    def call(*parts, start=True, end=True):
        specials = tokenizer.specials
        block = [specials.soi, *[specials.img] * N, specials.eoi]
        body = [token for part in parts for token in (block if part == "IMG" else tokenizer.encode(part))]
        return [specials.sot] * start + body + [specials.eot] * end

    return call


def test_images_stand_before_or_after_their_sentence(kit, render, expected):
    doc = kit.document(SENTENCES, kit.image("x", 0), kit.image("y", 2))
    red, green, blue = SENTENCES
    assert render(doc, before=[True, False]) == (expected("IMG", red, green, blue, "IMG"), ["x", "y"])
    assert render(doc, before=[False, True]) == (expected(red, "IMG", green, "IMG", blue), ["x", "y"])


def test_images_are_sorted_and_the_dissimilar_left_out(kit, render):
    images = [
        kit.image("c", 2, 0.3),
        kit.image("low", 1, 0.2399),
        kit.image("a", 0, 0.24),
        kit.image("nan", 1, float("nan")),
    ]
    _, names = render(kit.document(SENTENCES, *images))
    assert names == ["a", "c"]
    assert render(kit.document(SENTENCES, *images), similarity_threshold=0.25)[1] == ["c"]


def test_one_image_a_sentence_is_kept(kit, render):
    doc = kit.document(SENTENCES, kit.image("a", 1), kit.image("b", 1), kit.image("c", 1), kit.image("d", 0))
    assert render(doc, picks=[0, 2])[1] == ["d", "c"]
    assert render(doc, picks=[0, 0])[1] == ["d", "a"]
    drawn = Counter(render(doc, draw=random.Random(seed))[1][1] for seed in range(300))
    assert set(drawn) == {"a", "b", "c"}
    assert min(drawn.values()) > 60


def test_the_first_images_in_document_order_are_kept(kit, render):
    doc = kit.document(SENTENCES, kit.image("c", 2), kit.image("b", 1), kit.image("a", 0))
    assert render(doc, max_images=2)[1] == ["a", "b"]


def test_unreadable_images_are_left_out_after_the_choice(kit, render):
    doc = kit.document(SENTENCES, kit.image("a", 0), kit.image("b", 1), kit.image("c", 2))
    assert render(doc, readable=lambda name: name != "a", before=[True, True])[1] == ["b", "c"]
    # the bad one used up a place, as in the authors' code
    assert render(doc, readable=lambda name: name != "a", max_images=2)[1] == ["b"]


def test_documents_without_enough_images_are_dropped(kit, render):
    one = kit.document(SENTENCES, kit.image("a", 0))
    assert render(kit.document(SENTENCES)) is None
    assert render(kit.document([])) is None
    assert render(one, readable=lambda name: False) is None
    assert render(one, similarity_threshold=0.9) is None
    assert render(one, min_images=2) is None
    assert render(one) is not None


@pytest.mark.parametrize("index", [-1, 3, 99])
def test_an_image_of_no_sentence_is_left_out(kit, render, index):
    assert render(kit.document(SENTENCES, kit.image("stray", index))) is None
    assert render(kit.document(SENTENCES, kit.image("stray", index), kit.image("a", 1)), max_images=1)[1] == ["a"]


def test_the_coin_is_fair_and_can_be_bent(kit, render, tokenizer):
    doc = kit.document(["a red square"], kit.image("a", 0))

    def share_first(probability):
        rendered = [render(doc, image_first_probability=probability, draw=random.Random(n)) for n in range(300)]
        return sum(ids[1] == tokenizer.specials.soi for ids, _ in rendered) / 300

    assert share_first(0) == 0
    assert share_first(1) == 1
    assert 0.4 < share_first(0.5) < 0.6


def cut_at(kit, render, length):
    doc = kit.document(SENTENCES, kit.image("x", 0), kit.image("y", 1))
    return render(doc, context_length=length, before=[False, False])


def test_cutting(kit, render, expected, tokenizer):
    red, green, blue = SENTENCES
    eot, eoi = tokenizer.specials.eot, tokenizer.specials.eoi
    whole = expected(red, "IMG", green, "IMG", blue)
    to_second_image = len(expected(red, "IMG", green, "IMG", end=False))
    assert cut_at(kit, render, len(whole)) == (whole, ["x", "y"])
    assert cut_at(kit, render, len(whole) - 1) == ([*whole[: len(whole) - 2], eot], ["x", "y"])
    # the end overwrites the image's closing token: the image counts
    closed = cut_at(kit, render, to_second_image)
    assert closed == ([*whole[: to_second_image - 1], eot], ["x", "y"])
    assert closed[0].count(eoi) == 1
    # one less goes through the image: all of it goes
    without = expected(red, "IMG", green)
    for length in range(len(without) + 1, to_second_image):
        assert cut_at(kit, render, length) == (without, ["x"])
    first_whole = len(expected(red, "IMG"))
    assert cut_at(kit, render, first_whole - 1) == ([*whole[: first_whole - 2], eot], ["x"])
    assert cut_at(kit, render, first_whole - 2) is None


def test_every_length_keeps_images_and_blocks_together(kit, render, tokenizer):
    specials = tokenizer.specials
    doc = kit.document(SENTENCES, kit.image("x", 0), kit.image("y", 1), kit.image("z", 2))
    for length in range(1, 80):
        for seed in range(4):
            got = render(doc, context_length=length, draw=random.Random(seed))
            if got is not None:
                ids, names = got
                assert len(ids) <= length
                assert (ids[0], ids[-1]) == (specials.sot, specials.eot)
                check_blocks(ids, names, tokenizer)


def check_blocks(ids, names, tokenizer):
    """Each image has one soi, followed by exactly its placeholders, and no placeholder stands elsewhere."""
    specials = tokenizer.specials
    starts = [place for place, token in enumerate(ids) if token == specials.soi]
    assert len(starts) == len(names)
    for start in starts:
        assert list(ids[start + 1 : start + 1 + N]) == [specials.img] * N
        assert ids[start + 1 + N] in (specials.eoi, specials.eot)
    assert list(ids).count(specials.img) == N * len(names)


HOSTILE = [
    "<start_of_img>",
    "&lt;start_of_img&gt; x <img_placehold>",
    "&amp;lt;end_of_img&amp;gt;<END_OF_TEXT>",
    "<img_placehold> " * 8,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_web_text_cannot_forge_images(kit, text):
    for length in (40, 60, 400):
        for each in (clip_tokenizer(),):
            doc = kit.document([text, "a red square", text], kit.image("x", 0), kit.image("y", 1))
            ids, names = render_mmc4(doc, each, num_image_tokens=N, context_length=length, before=[True, True])
            check_blocks(ids, names, each)
            assert ids.count(each.specials.eot) == 1


def test_official_numerics_let_specials_through(kit, render, tokenizer):
    doc = kit.document(["a <end_of_img> b"], kit.image("x", 0))
    ids, _ = render(doc, numerics="official")
    assert ids.count(tokenizer.specials.eoi) == 2
    assert render(doc)[0].count(tokenizer.specials.eoi) == 1


def test_the_same_draw_gives_the_same_document(kit, render):
    doc = kit.document(SENTENCES, *(kit.image(name, place % 3) for place, name in enumerate("abcdefgh")))
    assert render(doc, draw=random.Random(5)) == render(doc, draw=random.Random(5))
    assert len({tuple(render(doc)[1]) for _ in range(50)}) > 1, "without a draw it is random"


def test_pairs(tokenizer, expected):
    text = "a red square"
    first = render_pair(text, tokenizer, N, 100, image_first=True)
    assert first == expected("IMG", text, start=False)
    assert render_pair(text, tokenizer, N, 100, image_first=False) == expected(text, "IMG", end=False)
    assert render_pair("", tokenizer, N, 100, image_first=False) == expected("IMG", end=False)


def test_long_captions_are_cut(tokenizer):
    words = tokenizer.encode("a red square " * 50)
    for image_first in (True, False):
        ids = render_pair("a red square " * 50, tokenizer, N, 40, image_first)
        assert [token for token in ids if token < tokenizer.specials.sot] == words[: 40 - N - 4]
        assert len(ids) == 40 - 1
    with pytest.raises(UserError) as caught:
        render_pair("x", tokenizer, N, N + 3, True)
    assert caught.value.field == "model.context_length"


def test_captions_cannot_forge_images(tokenizer):
    for text in HOSTILE:
        ids = render_pair(text, tokenizer, N, 100, image_first=False)
        check_blocks(ids, ["x"], tokenizer)
    assert render_pair(HOSTILE[0], tokenizer, N, 100, True, numerics="official").count(tokenizer.specials.soi) == 2


def test_reference_documents(golden):
    sets = json.loads((golden / "data" / "mmc4_docs.json").read_text(encoding="utf-8"))
    for settings in sets:
        for case in settings["docs"]:
            for numerics in ("official", "fixed"):
                got = render_mmc4(
                    case["doc"],
                    clip_tokenizer(),
                    num_image_tokens=settings["num_img_token"],
                    context_length=settings["context_length"],
                    similarity_threshold=settings["sim_threshold"],
                    max_images=settings["max_num_images"],
                    min_images=settings["min_num_images"],
                    picks=case["picks"],
                    before=case["before"],
                    readable=lambda name: name not in ("missing.png", "corrupt.png"),
                    numerics=numerics,
                )
                expected = None if case["dropped"] else (case["token_ids"], case["images"])
                assert got == expected, (case["name"], numerics)


def test_reference_pairs(golden):
    for case in json.loads((golden / "data" / "pairs.json").read_text(encoding="utf-8")):
        layout = (case["num_img_token"], case["context_length"], case["image_first"])
        for numerics in ("official", "fixed"):
            assert render_pair(case["text"], clip_tokenizer(), *layout, numerics) == case["token_ids"]


def test_a_document_lists_its_parts():
    document = Document("d", (TextSegment("a"), ImageSegment("x"), TextSegment("b"), ImageSegment("x")))
    assert document.images == ("x", "x")
    assert document.text == "a b"
