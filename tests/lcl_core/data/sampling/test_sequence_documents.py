"""Sequences stand as they are; matched documents also come as pairs; shards stream what their records said."""

import numpy as np
import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import Sample, SampleStream, SkippedSample, open_corpus
from lcl_core.data.records import (
    Document,
    ImageMatch,
    ImageSegment,
    MatchedDocument,
    Record,
    RecordImage,
    SequenceDocument,
    TextSegment,
)
from lcl_core.data.sampling.document_plan import encode_document
from lcl_core.data.shards.convert import convert
from lcl_core.specs.data import DataSpec

N, SIZE = 4, 16
PARTS = ["one", "red.png", "two", "three", "blue.png", "green.png", "four"]


def sequence(kit, *parts, **more):
    segments = [{"image": part} if part.endswith(".png") else {"text": part} for part in parts]
    return {**kit.document([]), "segments": segments, **more}


@pytest.fixture
def open_stream(kit, tokenizer):
    def call(*documents, view="interleaved", context=200, **data):
        spec = DataSpec(sources=({"dataset": "d", "view": view},), **data)
        corpus = kit.corpus(list(documents))
        return SampleStream(spec, {"d": corpus}, tokenizer, N, SIZE, context, seed=0)

    return call


def rendered(tokenizer, *parts, context=200):
    segments = tuple(ImageSegment(part) if part.endswith(".png") else TextSegment(part) for part in parts)
    got = encode_document(Document("", segments), tokenizer, N, context)
    assert got is not None
    return got[0]


def test_a_sequence_is_laid_out_as_it_stands(kit, open_stream, tokenizer):
    for probability in (0.0, 1.0):
        sample = open_stream(sequence(kit, *PARTS), image_first_probability=probability)[0]
        assert sample.token_ids.tolist() == rendered(tokenizer, *PARTS)
        assert [image.reshape(3, -1).mean(1).argmax() for image in sample.pixels] == [0, 2, 1]


def test_a_long_sequence_is_cut_as_mmc4_is(kit, open_stream, tokenizer):
    whole = len(rendered(tokenizer, *PARTS))
    shortest = len(rendered(tokenizer, *PARTS[:2])) - 1  # the end may take the place of the image's own end
    for context in range(whole, shortest - 1, -1):
        got = open_stream(sequence(kit, *PARTS), context=context)[0]
        assert isinstance(got, Sample)
        assert got.token_ids.tolist() == rendered(tokenizer, *PARTS, context=context)
        assert np.count_nonzero(got.token_ids == tokenizer.specials.img) == N * len(got.pixels)


def test_images_beyond_the_bound_and_unreadable_ones_leave_the_text(kit, open_stream, tokenizer):
    got = open_stream(sequence(kit, *PARTS), max_images=2)[0]
    assert got.token_ids.tolist() == rendered(tokenizer, "one", "red.png", "two", "three", "blue.png", "four")
    got = open_stream(sequence(kit, "a", "none.png", "b", "red.png"))[0]
    assert got.token_ids.tolist() == rendered(tokenizer, "a", "b", "red.png")
    assert got.left_out == ("file_missing",)


def test_pieces_of_a_sequence_show_all_of_it_once(kit, open_stream, tokenizer):
    stream = open_stream(sequence(kit, *PARTS), piece_images=2)
    assert stream.documents_per_epoch == 2
    specials = tokenizer.specials
    for epoch in range(10):
        pieces = sorted((stream[2 * epoch + number] for number in range(2)), key=lambda piece: piece.id)
        assert all(isinstance(piece, Sample) for piece in pieces)
        joined = [
            token for piece in pieces for token in piece.token_ids.tolist() if token not in (specials.sot, specials.eot)
        ]
        assert joined == rendered(tokenizer, *PARTS)[1:-1]


MALFORMED = [None, {}, "x", [1], [{}], [{"text": 1}], [{"image": None}], [[]]]


@pytest.mark.parametrize("segments", MALFORMED)
@pytest.mark.parametrize("piece_images", [None, 2])
def test_malformed_segments_are_skipped_and_named(kit, open_stream, segments, piece_images):
    got = open_stream({**kit.document(["x"]), "segments": segments}, piece_images=piece_images)[0]
    assert isinstance(got, SkippedSample)
    assert got.reason == "unreadable line"
    assert "segments" in got.detail


def test_matched_pairs_are_each_image_with_its_sentence(kit, open_stream, tokenizer):
    document = kit.document(
        ["a red square", "no image", "a blue square"],
        kit.image("blue.png", 2),
        kit.image("red.png", 0),
        kit.image("green.png", 1, 0.1),
    )
    stream = open_stream(document, view="matched_pairs", image_first_probability=0)
    assert stream.documents_per_epoch == 2
    texts = {}
    for position in range(2):
        sample = stream[position]
        assert len(sample.pixels) == 1
        assert sample.token_ids[-1] == tokenizer.specials.eoi
        words = [token for token in sample.token_ids.tolist() if token < tokenizer.specials.sot]
        texts[tokenizer.decode(words).strip()] = int(sample.pixels[0].reshape(3, -1).mean(1).argmax())
    assert texts == {"a red square": 0, "a blue square": 2}


def test_a_sequence_has_no_matched_pairs(kit, open_stream):
    got = open_stream(sequence(kit, *PARTS), view="matched_pairs")[0]
    assert isinstance(got, SkippedSample)
    assert got.reason == "too few usable images"


def records_of(folder):
    """What a reader of the folder's own layout would give."""
    corpus = open_corpus(folder)

    def sample_image(name):
        return RecordImage(name, lambda: corpus.image_bytes(name))

    records = []
    for number, document in enumerate(corpus.documents):
        body: MatchedDocument | SequenceDocument
        if "segments" in document:
            parts = [
                TextSegment(part["text"]) if "text" in part else ImageSegment(part["image"])
                for part in document["segments"]
            ]
            body, names = (
                SequenceDocument(tuple(parts)),
                [part.name for part in parts if isinstance(part, ImageSegment)],
            )
        else:
            matches = [
                ImageMatch(image["image_name"], image["matched_text_index"], image["matched_sim"])
                for image in document["image_info"]
            ]
            body, names = (
                MatchedDocument(tuple(document["text_list"]), tuple(matches)),
                [match.image for match in matches],
            )
        records.append(Record(str(number), body, tuple(sample_image(name) for name in dict.fromkeys(names))))
    return records


@pytest.mark.parametrize("options", [{}, {"piece_images": 2}, {"max_images": 1}, {"similarity_threshold": 0.4}])
@pytest.mark.parametrize("view", ["interleaved", "matched_pairs"])
def test_shards_stream_the_same_documents_and_pixels(kit, tokenizer, tmp_path, view, options):
    texts = ["a red square", "a green square", "so is this"]
    folder = kit.corpus(
        [
            kit.document(texts, kit.image("red.png", 0), kit.image("green.png", 1), kit.image("blue.png", 1, 0.3)),
            sequence(kit, *PARTS),
            kit.document(texts[:2], kit.image("none.png", 0), kit.image("white.png", 1)),
            kit.document(texts, kit.image("stray.png", 9), kit.image("red.png", 2)),
        ]
    )
    convert(records_of(folder.path), tmp_path / "shards")
    data = DataSpec(sources=({"dataset": "d", "view": view},), **options)
    plain, sharded = (
        SampleStream(data, {"d": corpus}, tokenizer, N, SIZE, 120, seed=0)
        for corpus in (folder, open_corpus(tmp_path / "shards"))
    )
    assert plain.documents_per_epoch == sharded.documents_per_epoch
    samples = 0
    for position in range(3 * plain.documents_per_epoch):
        first, second = plain[position], sharded[position]
        if isinstance(first, SkippedSample) or isinstance(second, SkippedSample):
            assert (first.reason, len(first.left_out)) == (second.reason, len(second.left_out))
        else:
            samples += 1
            assert np.array_equal(first.token_ids, second.token_ids)
            assert np.array_equal(first.pixels, second.pixels)
            assert len(first.left_out) == len(second.left_out)
    assert samples


def test_shares_by_images_and_tokens(kit, tokenizer):
    names = ("red.png", "green.png", "blue.png", "white.png")
    long = kit.document(["a red square"] * 4, *(kit.image(name, number) for number, name in enumerate(names)))
    corpus = kit.corpus([long], [kit.pair("red.png", "a red square")])
    shares = {}
    for unit in ("documents", "images", "tokens"):
        data = DataSpec(sources=({"dataset": "d"}, {"dataset": "d", "view": "pairs"}), weight_by=unit)
        stream = SampleStream(data, {"d": corpus}, tokenizer, N, SIZE, 120, seed=0)
        samples = [stream[position] for position in range(1000)]
        shares[unit] = [
            sum((1, len(each.pixels), len(each.token_ids))[column] for each in samples if each.source == 0)
            / sum((1, len(each.pixels), len(each.token_ids))[column] for each in samples)
            for column in range(3)
        ]
    assert shares["documents"][0] == pytest.approx(0.5, abs=0.01)
    assert shares["images"][1] == pytest.approx(0.5, abs=0.01)
    assert shares["tokens"][2] == pytest.approx(0.5, abs=0.01)


def test_sizes_that_cannot_be_measured_are_a_user_error(kit, tokenizer):
    corpus = kit.corpus([kit.document(["x"])])
    data = DataSpec(sources=({"dataset": "d"},), weight_by="tokens")
    with pytest.raises(UserError, match="weigh by documents") as caught:
        SampleStream(data, {"d": corpus}, tokenizer, N, SIZE, 120, seed=0)
    assert caught.value.field == "data.sources.0"
