"""The stream of samples."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data import Sample, SampleStream, SkippedSample, open_corpus
from lcl_core.specs.data import DataSpec

N, SIZE = 4, 16
SENTENCES = ["a red square", "a green square", "a blue square", "so is this"]
INTERLEAVED = {"dataset": "here", "view": "interleaved"}
PAIRS = {"dataset": "here", "view": "pairs"}


@pytest.fixture
def corpus(kit):
    documents = [
        kit.document(SENTENCES, kit.image("red.png", 0), kit.image("green.png", 1), kit.image("blue.png", 2)),
        kit.document(SENTENCES[2:], kit.image("blue.png", 0), kit.image("white.png", 1)),
    ]
    pairs = [kit.pair(f"{colour}.png", f"a {colour} square", colour) for colour in ("red", "green", "blue")]
    return kit.corpus(documents, pairs)


@pytest.fixture
def open_stream(corpus, tokenizer):
    def call(*sources, seed=0, corpus=corpus, **named):
        options = {key: named.pop(key) for key in list(named) if key in ("numerics", "context_length")}
        data = DataSpec(sources=sources or (INTERLEAVED,), **named)
        return SampleStream(data, {"here": corpus}, tokenizer, N, SIZE, seed=seed, **{"context_length": 120, **options})

    return call


def same(first, second):
    if isinstance(first, SkippedSample) or isinstance(second, SkippedSample):
        return first == second
    return (
        (first.id, first.source) == (second.id, second.source)
        and np.array_equal(first.token_ids, second.token_ids)
        and np.array_equal(first.pixels, second.pixels)
    )


def colour_of(pixels):
    """Which of the corpus's one-coloured images this is."""
    red, green, blue = (pixels.reshape(3, -1).mean(1) > 0).tolist()
    return {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 1): "white"}[red, green, blue]


def layout(sample, tokenizer):
    """Texts and the images' colours in reading order."""
    specials = tokenizer.specials
    images = iter(sample.pixels)
    parts = []
    words = []
    for token in [*sample.token_ids.tolist(), specials.eot]:
        if token < specials.sot:
            words.append(token)
            continue
        parts += [tokenizer.decode(words).strip()] if words else []
        words = []
        parts += [colour_of(next(images))] if token == specials.soi else []
    return parts


def test_a_sample_is_ids_and_pixels(open_stream, tokenizer):
    stream = open_stream()
    specials = tokenizer.specials
    for position in range(6):
        sample = stream[position]
        assert sample.token_ids.dtype == np.int32
        assert (sample.levels.dtype, sample.pixels.dtype) == (np.uint8, np.float32)
        assert sample.pixels.shape[1:] == (3, SIZE, SIZE)
        assert (sample.token_ids[0], sample.token_ids[-1]) == (specials.sot, specials.eot)
        assert np.count_nonzero(sample.token_ids == specials.soi) == len(sample.pixels)
        assert np.count_nonzero(sample.token_ids == specials.img) == N * len(sample.pixels)
        assert sample.id in ("here:interleaved.jsonl:1", "here:interleaved.jsonl:2")
        assert not sample.left_out


def test_pixels_belong_to_their_place(open_stream, tokenizer):
    for first in (0.0, 1.0):
        stream = open_stream(image_first_probability=first)
        sample = next(stream[position] for position in range(9) if stream[position].id.endswith(":1"))
        around = [["red", SENTENCES[0]], ["green", SENTENCES[1]], ["blue", SENTENCES[2]]]
        if first == 0:
            expected = [f"{text}|{colour}" for colour, text in around]
            assert "|".join(layout(sample, tokenizer)) == "|".join([*expected, SENTENCES[3]])
        else:
            assert layout(sample, tokenizer)[:2] == ["red", SENTENCES[0]]


def test_positions_are_pure(open_stream):
    sources = (INTERLEAVED, {**PAIRS, "weight": 2.0})
    first = open_stream(*sources, piece_images=2)
    expected = [first[position] for position in range(40)]
    again = open_stream(*sources, piece_images=2)
    assert all(same(again[position], expected[position]) for position in reversed(range(40)))
    other = open_stream(*sources, piece_images=2, seed=1)
    assert not all(same(other[position], expected[position]) for position in range(40))


def test_an_epoch_shows_every_document_and_the_next_shows_it_otherwise(open_stream):
    stream = open_stream()
    assert stream.documents_per_epoch == 2
    assert {stream[0].id, stream[1].id} == {stream[2].id, stream[3].id}
    orders = {(stream[2 * epoch].id, stream[2 * epoch + 1].id) for epoch in range(20)}
    assert len(orders) == 2
    of_one = [stream[position] for position in range(60) if stream[position].id.endswith(":1")]
    assert len({tuple(sample.token_ids.tolist()) for sample in of_one}) > 4, "coins are thrown anew"


def test_crops_are_drawn_anew(kit, open_stream):
    Image.linear_gradient("L").save(kit.root / "images" / "red.png")
    stream = open_stream(PAIRS, augmentation={"crop_scale": (0.3, 0.9)})
    reds = [stream[position] for position in range(30) if stream[position].id.endswith(":1")]
    assert len({sample.pixels.tobytes() for sample in reds}) == len(reds) == 10


def test_the_same_bytes_in_a_zip_give_the_same_samples(kit, open_stream):
    folder, zipped = open_stream(PAIRS, INTERLEAVED), open_stream(PAIRS, INTERLEAVED, corpus=open_corpus(kit.zip()))
    assert all(same(folder[position], zipped[position]) for position in range(20))


def test_pieces_show_every_image_once_an_epoch(open_stream, tokenizer):
    stream = open_stream(piece_images=2)
    assert stream.documents_per_epoch == 2 + 2
    cuts = set()
    for epoch in range(20):
        samples = [stream[4 * epoch + number] for number in range(4)]
        parts = [part for sample in samples for part in layout(sample, tokenizer)]
        assert [parts.count(colour) for colour in ("red", "green", "blue", "white")] == [1, 1, 2, 1]
        assert [" ".join(parts).count(text) for text in SENTENCES] == [1, 1, 2, 2]
        sizes = {sample.id: len(sample.pixels) for sample in samples}
        assert set(sizes.values()) <= {1, 2}
        cuts.add((sizes["here:interleaved.jsonl:1#1"], sizes["here:interleaved.jsonl:1#2"]))
    assert cuts == {(1, 2), (2, 1)}


def test_pieces_start_and_end_like_documents(open_stream, tokenizer):
    stream = open_stream(piece_images=1, image_first_probability=0)
    assert stream.documents_per_epoch == 5
    for position in range(10):
        ids = stream[position].token_ids
        assert (ids[0], ids[-1]) == (tokenizer.specials.sot, tokenizer.specials.eot)
        assert ids[1] != tokenizer.specials.soi


def test_pairs_follow_the_wrapper(open_stream, tokenizer):
    specials = tokenizer.specials
    stream = open_stream(PAIRS)
    starts, captions = Counter[int](), Counter[str]()
    for position in range(300):
        sample = stream[position]
        ids = sample.token_ids.tolist()
        image = colour_of(sample.pixels[0])
        caption = tokenizer.decode([token for token in ids if token < specials.sot]).strip()
        assert caption in (image, f"a {image} square")
        starts[ids[0]] += 1
        captions[caption] += 1
        block = [specials.soi, *[specials.img] * N, specials.eoi]
        if ids[0] == specials.soi:
            assert ids[: N + 2] == block
            assert ids[-1] == specials.eot
        else:
            assert ids[-N - 2 :] == block
            assert specials.eot not in ids
    assert set(starts) == {specials.sot, specials.soi}
    assert min(starts.values()) > 110
    assert len(captions) == 6
    assert min(captions.values()) > 25


@pytest.mark.parametrize("view", ["pairs", "matched_pairs"])
@pytest.mark.parametrize("blank", ["", " \n", "&nbsp;"])
def test_a_pair_has_a_text_that_has_a_token(kit, tokenizer, view, blank):
    """All images without one would have the same text, and be negatives of each other."""
    corpus = kit.corpus(
        [kit.document([blank, "a square"], kit.image("red.png", 0), kit.image("blue.png", 1))],
        [kit.pair("red.png", blank), kit.pair("blue.png", "a square")],
    )
    data = DataSpec(sources=({"dataset": "d", "view": view},), image_first_probability=0)
    stream = SampleStream(data, {"d": corpus}, tokenizer, N, SIZE, 100, seed=0)
    skipped, kept = sorted((stream[position] for position in range(2)), key=lambda item: isinstance(item, Sample))
    assert isinstance(skipped, SkippedSample)
    assert skipped.reason == "no caption"
    assert isinstance(kept, Sample)
    assert layout(kept, tokenizer) == ["a square", "blue"]
    assert [stream.measure(position) for position in range(2)].count(None) == 1


def test_a_pair_without_a_caption_is_called_by_its_class(kit, tokenizer):
    labelled = {"wnid": "n1", "class": "red"}
    rows = [
        kit.pair("red.png", " ", labels=labelled),
        kit.pair("red.png", "a square", labels=labelled),
        kit.pair("red.png", labels={"b": "square", "class": " "}),
        kit.pair("red.png", labels={"class": ""}),
    ]
    spec = DataSpec(sources=({"dataset": "d", "view": "pairs"},), image_first_probability=0)
    stream = SampleStream(spec, {"d": kit.corpus(pairs=rows)}, tokenizer, 4, 16, 100, seed=0)
    got = sorted((stream[position] for position in range(4)), key=lambda item: item.id)
    words = [tokenizer.decode(item.token_ids[1:-6].tolist()).strip() for item in got if isinstance(item, Sample)]
    assert words == ["red", "a square", "square"]
    assert (got[3].reason, [stream.measure(position) for position in range(4)].count(None)) == ("no caption", 1)


def test_shares_of_sources(open_stream):
    stream = open_stream({**INTERLEAVED, "weight": 1}, {**PAIRS, "weight": 3})
    assert Counter(stream[position].source for position in range(40)) == {0: 10, 1: 30}


SKIPPED = [
    ("documents", {"text_list": "x"}, {}, "unreadable line", "interleaved.jsonl:1"),
    ("documents", {"text_list": ["x"], "image_info": []}, {}, "too few usable images", ""),
    ("documents", {"images": [("red.png", 0, 0.1)]}, {}, "too few usable images", ""),
    ("documents", {"images": [("none.png", 0, 0.5)]}, {}, "too few readable images", "images/none.png"),
    ("documents", {"images": [("broken.png", 0, 0.5)]}, {}, "too few readable images", "images/broken.png"),
    ("documents", {"images": [("../x", 0, 0.5)]}, {}, "too few readable images", "inside the corpus"),
    ("documents", {"images": [("red.png", 0, 0.5)]}, {"context_length": 5}, "too few images fit the context", ""),
    ("pairs", {"image": "red.png", "captions": []}, {}, "no caption", ""),
    ("pairs", {"image": "red.png", "captions": ["", "  "]}, {}, "no caption", ""),
    ("pairs", {"image": "none.png", "captions": ["x"]}, {}, "unreadable image", "images/none.png"),
    ("pairs", {"image": "broken.png", "captions": ["x"]}, {}, "unreadable image", "images/broken.png"),
]


@pytest.mark.parametrize(("view", "row", "options", "reason", "detail"), SKIPPED)
@pytest.mark.parametrize("piece_images", [None, 2])
def test_what_gives_no_sample_says_why(
    kit,
    open_stream,
    view,
    row,
    options,
    reason,
    detail,
    piece_images,
):
    if "images" in row:
        row = kit.document(["a red square"], *(kit.image(*image) for image in row["images"]))
    kit.write("images/broken.png", b"no image")
    (kit.root / "interleaved.jsonl").unlink()
    corpus = kit.corpus(**{view: [row]})
    stream = open_stream(PAIRS if view == "pairs" else INTERLEAVED, corpus=corpus, piece_images=piece_images, **options)
    skipped = stream[0]
    assert isinstance(skipped, SkippedSample)
    assert skipped.reason == reason
    assert detail in skipped.detail
    assert ":1" in skipped.id


def test_an_unreadable_image_is_counted_and_the_rest_kept(kit, open_stream, tokenizer):
    row = kit.document(SENTENCES, kit.image("none.png", 0), kit.image("green.png", 1))
    sample = open_stream(corpus=kit.corpus([row]), image_first_probability=0)[0]
    assert len(sample.left_out) == 1
    assert len(sample.pixels) == 1
    assert "green" in layout(sample, tokenizer)


def test_special_tokens_in_web_text(kit, open_stream, tokenizer):
    row = kit.document(["&lt;start_of_img&gt;"], kit.image("red.png", 0))
    corpus = kit.corpus([row], [kit.pair("red.png", "<start_of_img>")])
    for source in (INTERLEAVED, PAIRS):
        fixed, official = (open_stream(source, corpus=corpus, numerics=each)[0] for each in ("fixed", "official"))
        assert np.count_nonzero(fixed.token_ids == tokenizer.specials.soi) == 1
        # one forged start more than placeholders: the authors cut there
        assert fixed.token_ids.tolist() != getattr(official, "token_ids", np.empty(0)).tolist()


@pytest.mark.parametrize(
    ("source", "field", "words"),
    [
        ({"dataset": "elsewhere"}, "data.sources.1.dataset", "elsewhere"),
        ({**PAIRS, "split": "none"}, "data.sources.1.split", "its splits: train"),
    ],
)
def test_a_source_that_cannot_be_is_named(open_stream, source, field, words):
    with pytest.raises(UserError, match=words) as caught:
        open_stream(INTERLEAVED, source)
    assert caught.value.field == field


def test_a_dataset_without_documents_is_named(kit, open_stream):
    (kit.root / "interleaved.jsonl").unlink()
    with pytest.raises(UserError, match="use its pairs") as caught:
        open_stream(corpus=kit.corpus(pairs=[kit.pair("red.png", "x")]))
    assert caught.value.field == "data.sources.0.view"
