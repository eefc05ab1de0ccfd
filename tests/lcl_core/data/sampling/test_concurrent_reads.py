"""Object storage, where each read waits: a loader process has many reads under way, and the stream is the same."""

import multiprocessing
import threading
import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lcl_core.data import SampleStream, open_corpus
from lcl_core.data.sampling.loader import load_batches
from lcl_core.data.shards.convert import convert
from lcl_core.specs.data import DataSpec
from lcl_core.specs.pretrain import BatchSpec
from tests.lcl_core.data.shards.conftest import Make

AT_ONCE = 12
PATIENCE = 60.0  # seconds, after which a read that is alone fails
BUDGET = BatchSpec(tokens=128, images=8)


@pytest.fixture
def url(tmp_path, monkeypatch):
    """A corpus in fsspec's memory, of which nothing is cached on disk."""
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LCL_DATA_CACHE_BYTES", "0")
    url = f"memory://{uuid.uuid4().hex}/corpus"
    documents = [Make.matched(f"d{n}", ["red", "green"], ("red.png", 0, 0.5)) for n in range(48)]
    convert(documents, url)
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


@pytest.fixture
def batches(tokenizer):
    def call(url, workers, count):
        data = DataSpec(sources=({"dataset": "d"},))
        stream = SampleStream(data, {"d": open_corpus(url)}, tokenizer, 4, 16, 120, seed=0)
        loaded = load_batches(stream, 0, BUDGET, workers)
        return [[(each.id, each.levels.tobytes()) for each in next(loaded).samples] for _ in range(count)]

    return call


@pytest.mark.parametrize("workers", [1, 3])
def test_each_process_has_many_reads_under_way(url, batches, monkeypatch, workers):
    """In a loader process no read of a shard returns before that many have begun."""
    expected = batches(url, 0, 6)
    cat_file = MemoryFileSystem.cat_file
    begun = []  # of each process its own: they are forked
    more_begun = threading.Condition()

    def meeting(self, path, start=None, end=None, **more):
        if path.endswith(".tar") and multiprocessing.parent_process() is not None:
            with more_begun:
                begun.append(path)
                more_begun.notify_all()
                assert more_begun.wait_for(lambda: len(begun) >= AT_ONCE, PATIENCE)
        return cat_file(self, path, start=start, end=end, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", meeting)
    assert batches(url, workers, 6) == expected


def test_a_folder_is_read_by_one_thread(tmp_path):
    convert([Make.matched("d", ["red"], ("red.png", 0, 0.5))], tmp_path / "shards")
    assert open_corpus(tmp_path / "shards").concurrent_reads == 1
