"""Documents cut into pieces."""

import random

import numpy as np
import pytest

from lcl_core.data import SampleStream, open_corpus
from lcl_core.data.corpus.base import usable_image_counts
from lcl_core.data.sampling.document_plan import (
    ChunkIndex,
    Placement,
    chunk_count,
    chunk_placements,
    count_dropped_context,
    sample_images_per_chunk,
)
from lcl_core.data.shards.convert import convert
from lcl_core.specs.data import DataSpec
from tests.lcl_core.data.shards.conftest import Make


@pytest.mark.parametrize("images", range(8))
@pytest.mark.parametrize("most", range(1, 6))
def test_sizes_add_up_within_bounds(images, most):
    drawn = {tuple(sample_images_per_chunk(random.Random(seed), images, most)) for seed in range(200)}
    for sizes in drawn:
        assert sum(sizes) == images
        assert len(sizes) == chunk_count(images, most)
        assert all(0 < size <= most for size in sizes) or images == 0
    if images == 6 and most == 3:
        assert len(drawn) == 7, "all compositions of 6 into 3 parts of 1 to 3 occur"


def test_pieces_cover_the_document_once():
    placements = [Placement(sentence, f"{sentence}") for sentence in (1, 2, 5, 8)]
    for sizes in ([4], [1, 1, 1, 1], [2, 2], [1, 3], [3, 1]):
        pieces = [chunk_placements(placements, sizes, number, sentences=11) for number in range(len(sizes))]
        assert [place for own, _ in pieces for place in own] == placements
        assert [sentence for _, span in pieces for sentence in span] == list(range(11))
        for (own, span), size in zip(pieces, sizes, strict=True):
            assert len(own) == size
            assert all(place.sentence in span for place in own)


@pytest.mark.parametrize(
    ("lengths", "lead_in", "room", "dropped"),
    [
        ([5, 5, 5], 2, 20, 0),
        ([5, 5, 5], 2, 15, 0),
        ([5, 5, 5], 2, 14, 1),
        ([5, 5, 5], 2, 6, 2),
        ([5, 5, 5], 1, 1, 1),
        ([50], 0, 1, 0),
    ],
)
def test_lead_in_goes_only_as_far_as_it_must(lengths, lead_in, room, dropped):
    assert count_dropped_context(lengths, lead_in, room) == dropped


def test_items_are_pieces():
    index = ChunkIndex([0, 4, 0, 6, 1], piece_images=3)
    assert [index[item] for item in range(len(index))] == [
        (0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (3, 2), (4, 0),
    ]  # fmt: skip
    assert len(ChunkIndex([], 3)) == 0


def test_usable_images_are_counted_as_they_are_chosen(kit):
    sentences = [f"s{number}" for number in range(8)]

    def of(images):
        return kit.document(sentences, *(kit.image("red.png", number) for number in range(images)))

    two_on_one = kit.document(sentences, kit.image("a", 0), kit.image("b", 0), kit.image("low", 3, 0.1))
    sequence = {**of(0), "segments": [{"image": "a"}, {"text": "x"}, {"image": "a"}]}
    odd = {**of(3), "segments": [{"picture": 1}]}
    corpus = kit.corpus([of(0), of(4), {"broken": True}, of(8), two_on_one, sequence, odd])
    assert list(usable_image_counts(corpus.documents, DataSpec())) == [0, 4, 0, 6, 1, 2, 0]


@pytest.mark.parametrize("view", ["matched_pairs", "interleaved"])
def test_an_image_that_an_index_of_shards_counts_by_rounding_gives_no_sample(tmp_path, tokenizer, view):
    rounded = float(np.float32(0.24))
    assert rounded < 0.24
    record = Make.matched("d0", ["red", "green"], ("red.png", 0, 0.5), ("green.png", 1, rounded))
    convert([record], tmp_path / "shards")
    data = DataSpec(sources=({"dataset": "d", "view": view},), similarity_threshold=0.24, piece_images=1)
    stream = SampleStream(data, {"d": open_corpus(tmp_path / "shards")}, tokenizer, 4, 16, 120, seed=0)
    assert stream.documents_per_epoch == 2
    samples = [stream[position] for position in range(2)]
    assert sorted(type(sample).__name__ for sample in samples) == ["Sample", "SkippedSample"]
    assert [stream.measure(position) is None for position in range(2)].count(True) == 1
