"""Records of remote shards are fetched before they are read: by few requests, in bounded memory, the same bytes."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lcl_core.common.errors import UserError
from lcl_core.data.shards.convert import convert
from lcl_core.data.shards.read_ahead import ReadAhead, WantedBlock
from lcl_core.data.shards.sharded_corpus import ShardedCorpus

RECORDS, BLOCK = 240, 20
PATIENCE = 60.0  # seconds, after which a request that waits for another fails


class Requests:
    """Ranges of shards that were requested, and what happens to them."""

    def __init__(self):
        self.made = []
        self.before = lambda path, start, end: None

    def __call__(self, path, start, end):
        self.made.append((path, start, end))
        self.before(path, start, end)

    @property
    def bytes(self):
        return sum(end - start for _, start, end in self.made)


@pytest.fixture
def requests(monkeypatch):
    found, cat_file = Requests(), MemoryFileSystem.cat_file

    def counted(self, path, start=None, end=None, **more):
        if path.endswith(".tar"):
            assert start is not None
            assert end is not None
            found(path, start, end)
        return cat_file(self, path, start=start, end=end, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    return found


@pytest.fixture
def corpus(make, tmp_path, monkeypatch):
    """Of several shards in fsspec's memory, of which nothing is cached on disk."""
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LCL_DATA_CACHE_BYTES", "0")
    url = f"memory://{uuid.uuid4().hex}/corpus"
    convert((make.matched(f"d{n}", ["red"], ("red.png", 0, 0.5)) for n in range(RECORDS)), url, shard_bytes=200_000)
    corpus = ShardedCorpus.open(url)
    corpus._storage._storage._first_wait = 0.0
    yield corpus
    fsspec.filesystem("memory").rm(url, recursive=True)


def blocks_of(corpus, size=BLOCK):
    """A block after the other; position n needs record n."""
    for start in range(0, RECORDS, size):
        yield WantedBlock(corpus, start, {number: [number] for number in range(start, min(start + size, RECORDS))})


def read_all(corpus, ahead, threads=4):
    def read(position):
        with ahead.reading(position):
            value = corpus.description(position)
            corpus.image_bytes(f"{position:09d}.0.{value['pictures'][0]['file']}")
            return str(value["id"])

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(read, range(RECORDS)))


EXPECTED = [f"d{number}" for number in range(RECORDS)]


def record_bytes(corpus):
    return sum(corpus.index.row(number).length for number in range(RECORDS))


def test_a_request_fetches_a_block_and_nothing_twice(corpus, requests):
    with ReadAhead(blocks_of(corpus), [corpus], 1 << 30, horizon=3 * BLOCK) as ahead:
        assert read_all(corpus, ahead) == EXPECTED
        assert ahead._bytes == 0, "what has been read is dropped"
    shards = len(corpus.index.header.shards)
    assert shards > 1
    assert RECORDS // BLOCK <= len(requests.made) <= RECORDS // BLOCK + shards - 1, "a block may lie in two shards"
    assert requests.bytes == record_bytes(corpus)
    assert corpus.held is None


def test_several_requests_are_under_way_at_once(corpus, requests):
    begun = threading.Condition()

    def meet(*_):
        with begun:
            begun.notify_all()
            assert begun.wait_for(lambda: len(requests.made) >= 6, PATIENCE)

    requests.before = meet
    with ReadAhead(blocks_of(corpus), [corpus], 1 << 30, horizon=RECORDS) as ahead:
        assert read_all(corpus, ahead, threads=1) == EXPECTED


@pytest.mark.parametrize("blocks", [1.5, 3.5])
def test_memory_is_bounded(corpus, requests, blocks):
    bound, seen = int(record_bytes(corpus) / RECORDS * BLOCK * blocks), []
    ahead = ReadAhead(blocks_of(corpus), [corpus], bound, horizon=RECORDS)
    requests.before = lambda *_: seen.append(ahead._bytes)
    with ahead:
        assert read_all(corpus, ahead) == EXPECTED
    assert 0 < max(seen) <= bound


def test_what_memory_has_no_room_for_is_read_by_itself(corpus, requests):
    """Records of all blocks are needed in turn, and there is room for some of the blocks."""
    count, size = RECORDS // BLOCK, int(record_bytes(corpus) / RECORDS)
    wanted = [
        WantedBlock(corpus, block, {block * BLOCK + turn: [turn * count + block] for turn in range(BLOCK)})
        for block in range(count)
    ]
    seen = []
    ahead = ReadAhead(iter(wanted), [corpus], 4 * BLOCK * size + 100, horizon=RECORDS)
    requests.before = lambda *_: seen.append(ahead._bytes)
    with ahead:
        for position in range(RECORDS):
            with ahead.reading(position):
                record = position % count * BLOCK + position // count
                assert corpus.description(record)["id"] == f"d{record}"
        assert ahead._bytes == 0
    assert max(seen) <= 4 * BLOCK * size + 100
    assert RECORDS // 4 < len(requests.made) < RECORDS, "a third of the blocks, and the records of the others"


def test_a_block_is_not_requested_long_before_it_is_due(corpus, requests):
    farthest = []
    reached = 0

    def note(path, start, end):
        shard = int(path[-7:-4])
        rows = map(corpus.index.row, range(RECORDS))
        farthest.append([(row.shard, row.offset) for row in rows].index((shard, start)) - reached)

    requests.before = note
    with ReadAhead(blocks_of(corpus), [corpus], 1 << 30, horizon=2 * BLOCK) as ahead:
        for position in range(RECORDS // 3):
            reached = position
            with ahead.reading(position):
                corpus.description(position)
    assert max(farthest) < 3 * BLOCK, "the third block may be cut by the end of a shard"


def test_a_position_that_another_thread_overtook_is_fetched_with_its_block(corpus, requests):
    overtaken, requested = threading.Event(), threading.Event()
    requests.before = lambda *_: requested.set()

    def blocks():
        assert overtaken.wait(PATIENCE)
        yield from blocks_of(corpus)

    with ReadAhead(blocks(), [corpus], 1 << 30, horizon=BLOCK) as ahead:
        with ahead.reading(5):
            overtaken.set()
        assert requested.wait(PATIENCE)
        with ahead.reading(4):
            assert corpus.description(4)["id"] == "d4"
    assert min(end - start for _, start, end in requests.made) > corpus.index.row(4).length, "none of one record"


def test_a_failed_request_is_tried_again(corpus, requests):
    failed = set()

    def fail_once(path, start, end):
        if (path, start) not in failed:
            failed.add((path, start))
            raise ConnectionError("reset")

    requests.before = fail_once
    with ReadAhead(blocks_of(corpus), [corpus], 1 << 30, horizon=3 * BLOCK) as ahead:
        assert read_all(corpus, ahead) == EXPECTED
    assert len(requests.made) == 2 * len(failed) <= 4 * RECORDS // BLOCK


def test_a_block_that_cannot_be_had_is_read_by_record_and_an_error_names_the_file(corpus, requests):
    broken = corpus.index.row(50)

    def fail(path, start, end):
        if start <= broken.offset < end and path.endswith(f"-{broken.shard:03d}.tar"):
            raise ConnectionError("reset")

    requests.before = fail
    read = []
    with ReadAhead(blocks_of(corpus), [corpus], 1 << 30, horizon=3 * BLOCK) as ahead:
        for position in range(RECORDS):
            with ahead.reading(position):
                if position != 50:
                    read.append(len(corpus.description(position)["id"]))
                    continue
                with pytest.raises(UserError, match="cannot be read after 5 attempts") as caught:
                    corpus.description(position)
    assert caught.value.file == f"shards/00000-00000-{broken.shard:03d}.tar"
    assert len(read) == RECORDS - 1


def test_a_record_that_two_positions_need_is_fetched_once_and_kept_for_both(corpus, requests):
    wanted = [WantedBlock(corpus, 0, {0: [0, 5], 1: [1]}), WantedBlock(corpus, 2, {1: [2], 2: [3, 4]})]
    with ReadAhead(iter(wanted), [corpus], 1 << 30, horizon=100) as ahead:
        for position, record in enumerate([0, 1, 1, 2, 2, 0]):
            with ahead.reading(position):
                assert corpus.description(record)["id"] == f"d{record}"
            corpus._last = threading.local()  # so that nothing is read from there
        assert ahead._bytes == 0
    assert len(requests.made) == 2


def test_records_that_nobody_expected_are_read(corpus):
    with ReadAhead(iter([WantedBlock(corpus, 10, {10: [10]})]), [corpus], 1 << 30, horizon=100) as ahead:
        with ahead.reading(3):
            assert corpus.description(7)["id"] == "d7"
        with ahead.reading(10):
            assert corpus.description(10)["id"] == "d10"


def test_an_error_of_the_plan_reaches_the_reader(corpus):
    def broken():
        yield WantedBlock(corpus, 0, {0: [0]})
        raise RuntimeError("the plan is wrong")

    def read():
        with ReadAhead(broken(), [corpus], 1 << 30, horizon=100) as ahead:
            for position in range(3):
                with ahead.reading(position):
                    corpus.description(position)

    with pytest.raises(RuntimeError, match="the plan is wrong"):
        read()


def test_closing_does_not_wait_for_what_nobody_reads(corpus, requests):
    release = threading.Event()
    requests.before = lambda *_: release.wait(PATIENCE) and None
    try:
        with ReadAhead(blocks_of(corpus), [corpus], 1 << 30, horizon=RECORDS):
            pass
        assert corpus.held is None
    finally:
        release.set()


@pytest.mark.parametrize("most", [1, 5000, 1 << 30])
def test_ranges_cover_the_records_and_are_no_larger_than_asked(corpus, most):
    chosen = [3, 4, 5, 90, 91, 200]
    ranges = corpus.record_ranges(reversed(chosen), most)
    assert [row.record for part in ranges for row in part.records] == chosen
    assert all(part.end - part.start <= most or len(part.records) == 1 for part in ranges)
    for part in ranges:
        assert corpus.read_records(part, chosen).keys() == {row.record for row in part.records}
