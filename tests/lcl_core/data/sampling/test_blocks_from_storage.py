"""Block order on object storage: few requests a document, nothing fetched twice, the samples of the same on disk."""

import itertools
import multiprocessing
import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lcl_core.data import SampleStream, open_corpus
from lcl_core.data.sampling.loader import Cursor, LoaderPool, first_cursors
from lcl_core.data.shards.convert import convert
from lcl_core.data.shards.sharded_corpus import ShardedCorpus
from lcl_core.specs.data import DataSpec
from tests.lcl_core.data.shards.conftest import Make

DOCUMENTS, PAIRS = 768, 96
BLOCKS = {"order": "blocks", "window_blocks": 12}


class Tally:
    """Requests and bytes of all processes that were forked since."""

    def __init__(self):
        self.requests, self.bytes = multiprocessing.Value("q"), multiprocessing.Value("q")

    def add(self, size):
        for value, more in ((self.requests, 1), (self.bytes, size)):
            with value.get_lock():
                value.value += more


@pytest.fixture
def tally(monkeypatch):
    tally, cat_file = Tally(), MemoryFileSystem.cat_file

    def counted(self, path, start=None, end=None, **more):
        if path.endswith(".tar"):
            assert start is not None
            assert end is not None
            tally.add(end - start)
        return cat_file(self, path, start=start, end=end, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    return tally


@pytest.fixture
def url(tmp_path, monkeypatch):
    """A corpus in fsspec's memory, of which nothing is cached on disk."""
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LCL_DATA_CACHE_BYTES", "0")
    url = f"memory://{uuid.uuid4().hex}/corpus"
    documents = (Make.matched(f"d{n}", ["red"], ("red.png", 0, 0.5)) for n in range(DOCUMENTS))
    pairs = (Make.pair(f"p{n}", "green.png", "green") for n in range(PAIRS))
    convert(itertools.chain(documents, pairs), url, shard_bytes=1 << 20)
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


def read(url, tokenizer, cursor, count, workers, ranks=1, memory=1 << 30, **data):
    """The first samples: position, id, levels."""
    spec = DataSpec(**{"sources": ({"dataset": "d"},), **BLOCKS, **data})
    stream = SampleStream(spec, {"d": open_corpus(url)}, tokenizer, 4, 16, 120, seed=0, block_bytes=memory)
    positions = itertools.islice(itertools.chain(cursor.held, itertools.count(cursor.position, ranks)), count)
    with LoaderPool(stream.corpora, workers) as pool:
        samples = pool.samples(stream, positions, 16, ranks)
        return [(each.position, each.id, each.levels.tobytes()) for each in samples]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 3), (2, 2), (1, 0)])
def test_few_requests_fetch_each_block_for_one_reader(url, tokenizer, tally, ranks, workers):
    """Twelve positions of a window are twelve blocks; 1, 2, 3 and 4 readers divide them."""
    count = DOCUMENTS // ranks
    found = [read(url, tokenizer, cursor, count, workers, ranks) for cursor in first_cursors(ranks)]
    assert {name for each in found for _, name, _ in each} == {f"d:{number:09d}" for number in range(DOCUMENTS)}
    corpus = ShardedCorpus.open(url)
    needed = sum(corpus.index.row(number).length for number in range(DOCUMENTS))
    assert tally.requests.value <= 0.05 * DOCUMENTS * 1.6, "some are of the second epoch, read ahead"
    assert needed <= tally.bytes.value <= 1.6 * needed, "a block that a late thread still needs is fetched again"


@pytest.mark.parametrize("workers", [0, 2, 5])
def test_samples_are_those_of_the_same_shards_on_disk(url, tokenizer, tmp_path, workers):
    fsspec.filesystem("memory").get(url, str(tmp_path / "disk"), recursive=True)
    for start in (0, 500):
        expected = read(str(tmp_path / "disk"), tokenizer, Cursor(start), 400, 0)
        assert read(url, tokenizer, Cursor(start), 400, workers) == expected


def test_a_resumed_reader_takes_what_waits_and_goes_on(url, tokenizer, tally):
    whole = {position: name for position, name, _ in read(url, tokenizer, Cursor(), 300, 0)}
    before = tally.requests.value
    resumed = read(url, tokenizer, Cursor(101, (95, 3, 99)), 103, 2)
    assert [position for position, _, _ in resumed] == [95, 3, 99, *range(101, 201)]
    assert all(whole[position] == name for position, name, _ in resumed)
    assert tally.requests.value - before <= 30, (
        "two windows of 12, where a block lies in two shards two, and 3 that wait"
    )


def test_sources_of_a_mixture_share_the_window(url, tokenizer, tally):
    sources = (
        {"dataset": "d", "weight": 3},
        {"dataset": "d", "view": "pairs"},
        {"dataset": "d", "view": "matched_pairs"},
    )
    expected = read(url, tokenizer, Cursor(), 300, 0, memory=0, sources=sources)
    alone = tally.requests.value
    assert alone >= 300
    assert read(url, tokenizer, Cursor(), 300, 2, sources=sources) == expected
    assert tally.requests.value - alone <= 40


def test_pieces_of_a_document_are_read_with_one_request_for_many(url, tokenizer, tally):
    expected = read(url, tokenizer, Cursor(), 300, 0, memory=0, piece_images=1)
    alone = tally.requests.value
    assert read(url, tokenizer, Cursor(), 300, 1, piece_images=1) == expected
    assert tally.requests.value - alone <= 40


def test_in_full_order_each_document_is_a_request(url, tokenizer, tally):
    full = {"order": "full"}
    assert len(read(url, tokenizer, Cursor(), 200, 0, **full)) == 200
    assert 200 <= tally.requests.value <= 216 + 16


def test_weights_are_measured_without_images(url, tokenizer, tally):
    views = ("interleaved", "pairs", "matched_pairs")
    data = DataSpec(sources=[{"dataset": "d", "view": view} for view in views], weight_by="tokens")
    corpus = ShardedCorpus.open(url)
    stream = SampleStream(data, {"d": corpus}, tokenizer, 4, 16, 120, seed=0)
    rows = [corpus.index.row(number) for number in range(len(corpus.index))]
    heads = max(row.json for row in rows)
    assert heads < min(row.length for row in rows)
    assert tally.bytes.value <= heads * tally.requests.value
    tokens = [1 / weight for weight in stream.options["document_weights"]]
    assert tokens[0] > tokens[1] > 4
