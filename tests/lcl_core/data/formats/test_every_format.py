"""Every format from its files to the stream: a reader, shards, samples. Ids and pixels are those of the source."""

import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from lcl_core.data import Corpus, Sample, SampleStream, open_corpus
from lcl_core.data.formats import FORMATS, open_reader
from lcl_core.data.shards.convert import convert
from lcl_core.specs.data import DataSpec
from tests.lcl_core.data.corpus_layouts import Maker
from tests.lcl_core.data.corpus_layouts import Sample as Files
from tests.lcl_core.data.expected_corpora import LAYOUTS, Truth

N, SIZE, CONTEXT = 4, 32, 8192
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Told = tuple[list[int], list[bytes]]  # ids, images in order
Convert = Callable[[str], tuple[Truth, Corpus]]


@pytest.fixture(scope="module")
def files(sample_zip):
    with zipfile.ZipFile(sample_zip) as archive:
        yield Files(archive)


@pytest.fixture
def converted(files, tmp_path):
    """Write a layout, read it, convert it, open the shards."""

    def call(name):
        format, write = LAYOUTS[name]
        make = Maker(tmp_path / name)
        truth = write(make, files)
        reader = open_reader(truth.path or make.root, **truth.options)
        assert reader.format == format
        report = convert(reader.records(), tmp_path / "shards" / name)
        assert report.records == len(truth.documents) + len(truth.pairs)
        assert sum(report.quarantined.values()) == truth.quarantined
        return truth, open_corpus(tmp_path / "shards" / name)

    return call


class Page:
    """How the spec lays a document out, written down once more."""

    def __init__(self, tokenizer, image_first):
        special = tokenizer.specials
        self._encode, self._sot, self._eot = tokenizer.encode, special.sot, special.eot
        self._image = [special.soi, *[special.img] * N, special.eoi]
        self._first = image_first

    def document(self, parts):
        flat = []
        for part in parts:
            flat += [part] if not isinstance(part, tuple) else part[::-1] if self._first else part
        ids = [self._sot]
        for part in flat:
            ids += self._encode(part) if isinstance(part, str) else self._image
        return [*ids, self._eot], [part for part in flat if isinstance(part, bytes)]

    def pair(self, text, image):
        words = self._encode(text)
        return [*self._image, *words, self._eot] if self._first else [self._sot, *words, *self._image], [image]

    def documents(self, truth):
        """What each may become."""
        return [[self.document(parts)] for parts in truth.documents]

    def pairs(self, truth, split):
        return [[self.pair(text, image) for text in texts] for own, image, texts in truth.pairs if own == split]

    def matched_pairs(self, truth):
        return [[self.pair(*part)] for parts in truth.documents for part in parts if isinstance(part, tuple)]


def pixels_of(data):
    """[3, SIZE, SIZE] of a square image of which nothing is cut off; training may differ by two levels."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    levels = (np.asarray(image, np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.asarray(levels.transpose(2, 0, 1))


def is_told(sample, reported):
    ids, images = reported
    if sample.token_ids.tolist() != ids or len(sample.pixels) != len(images):
        return False
    return all(np.allclose(got, pixels_of(data), atol=0.04) for got, data in zip(sample.pixels, images, strict=True))


def assert_same(samples, expected):
    """Each sample is one of what is expected, and each of these is one sample."""
    left = list(expected)
    for sample in samples:
        assert isinstance(sample, Sample), sample
        found = [options for options in left if any(is_told(sample, reported) for reported in options)]
        assert found, f"{sample.id} says something else than its source"
        left.remove(found[0])
    assert left == []


def open_stream(corpora, tokenizer, image_first, *sources):
    spec = DataSpec(
        sources=sources,
        image_first_probability=float(image_first),
        augmentation={"crop_scale": (1.0, 1.0)},
    )
    return SampleStream(spec, corpora, tokenizer, N, SIZE, CONTEXT, seed=0)


def epoch(stream):
    return [stream[position] for position in range(stream.documents_per_epoch)]


@pytest.mark.parametrize("image_first", [True, False], ids=["image first", "text first"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_streamed_is_what_the_source_says(converted, tokenizer, name, image_first):
    truth, corpus = converted(name)
    page = Page(tokenizer, image_first)
    assert len(corpus.documents) == len(truth.documents)
    assert corpus.splits() == {split: len(page.pairs(truth, split)) for split in {own for own, _, _ in truth.pairs}}
    if truth.documents:
        stream = open_stream({"d": corpus}, tokenizer, image_first, {"dataset": "d"})
        assert_same(epoch(stream), page.documents(truth))
    for split in corpus.splits():
        stream = open_stream({"d": corpus}, tokenizer, image_first, {"dataset": "d", "view": "pairs", "split": split})
        assert_same(epoch(stream), page.pairs(truth, split))


@pytest.mark.parametrize("name", ["MMC4", "MMC4 fewer faces", "native folder", "native zip"])
def test_each_matched_image_comes_with_its_sentence(converted, tokenizer, name):
    truth, corpus = converted(name)
    stream = open_stream({"d": corpus}, tokenizer, True, {"dataset": "d", "view": "matched_pairs"})
    assert_same(epoch(stream), Page(tokenizer, True).matched_pairs(truth))


@pytest.mark.parametrize("name", ["native folder", "native zip", "native sequences"])
def test_our_own_form_streams_as_it_lies(files, tmp_path, tokenizer, name):
    truth = LAYOUTS[name][1](Maker(tmp_path), files)
    corpora, page = {"d": open_corpus(truth.path or tmp_path)}, Page(tokenizer, False)
    assert_same(epoch(open_stream(corpora, tokenizer, False, {"dataset": "d"})), page.documents(truth))
    if truth.pairs:
        stream = open_stream(corpora, tokenizer, False, {"dataset": "d", "view": "pairs"})
        assert_same(epoch(stream), page.pairs(truth, "train"))


def test_a_mixture_of_two(converted, tokenizer):
    """Twice as many captioned images as documents, each source going round and round."""
    documents, laion = converted("MMC4"), converted("WebDataset")
    stream = open_stream(
        {"mmc4": documents[1], "laion": laion[1]},
        tokenizer,
        True,
        {"dataset": "mmc4"},
        {"dataset": "laion", "view": "pairs", "weight": 2.0},
    )
    page = Page(tokenizer, True)
    expected = (page.documents(documents[0]), page.pairs(laion[0], "train"))
    rounds = 4
    samples = [stream[position] for position in range(3 * len(expected[0]) * rounds)]
    for number, times in ((0, rounds), (1, 2 * len(expected[0]) * rounds // len(expected[1]))):
        own = [sample for sample in samples if isinstance(sample, Sample) and sample.source == number]
        assert_same(own, expected[number] * times)


def test_no_format_is_left_out():
    assert {format for format, _ in LAYOUTS.values()} == set(FORMATS)
