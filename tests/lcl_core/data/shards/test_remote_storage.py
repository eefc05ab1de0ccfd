"""Corpora at a distance: any fsspec URL, one request a document, retries, a cache on the local disk."""

import uuid

import fsspec
import pytest

from lcl_core.common.errors import StoreError, UserError
from lcl_core.data import open_corpus
from lcl_core.data.corpus.base import usable_image_counts
from lcl_core.data.sampling.loader import load_batches
from lcl_core.data.sampling.resident_images import resident_sources, write_resident_images
from lcl_core.data.sampling.stream import SampleStream
from lcl_core.data.shards.convert import convert
from lcl_core.data.shards.sharded_corpus import ShardedCorpus, read_shard_records
from lcl_core.data.shards.storage import RemoteShardStorage
from lcl_core.data.validation.validate import validate
from lcl_core.specs.data import DataSpec
from lcl_core.specs.pretrain import BatchSpec


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(make, shards):
    return shards(make.mixed(), shard_bytes=8192)


@pytest.fixture
def memory(folder):
    """The corpus in fsspec's memory."""
    url = f"memory://{uuid.uuid4().hex}/corpus"
    files = fsspec.filesystem("memory")
    for file in folder.rglob("*"):
        if file.is_file():
            files.pipe_file(f"{url}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    yield url
    files.rm(url, recursive=True)


@pytest.fixture
def s3(s3_bucket, folder):
    """The corpus in a bucket of its own."""
    url = f"{s3_bucket}/corpus"
    fsspec.filesystem("s3").put(f"{folder}/", f"{url}/", recursive=True)
    return url


@pytest.fixture(params=["file", "memory", "s3"])
def url(request, folder):
    return f"file://{folder}" if request.param == "file" else str(request.getfixturevalue(request.param))


def everything(corpus):
    documents, pairs = list(corpus.documents), list(corpus.pairs())
    names = [image["image_name"] for document in documents for image in document["image_info"]]
    names += [pair.image for pair in pairs]
    return [documents, pairs, [corpus.image_bytes(name) for name in names], corpus.splits(), corpus.content_hash()]


def test_any_place_gives_the_same(url, folder):
    assert everything(open_corpus(url)) == everything(open_corpus(folder))


def test_batches_stream_from_anywhere_in_worker_processes(url, folder, tokenizer):
    data = DataSpec(sources=({"dataset": "d"}, {"dataset": "d", "view": "pairs"}))

    def batches(place, workers):
        stream = SampleStream(data, {"d": open_corpus(place)}, tokenizer, 4, 16, 120, seed=0)
        loaded = load_batches(stream, 0, BatchSpec(tokens=128), workers)
        got = [next(loaded) for _ in range(4)]
        return [[(sample.id, sample.pixels.tobytes()) for sample in batch.samples] for batch in got]

    assert batches(url, 1) == batches(folder, 0)


def test_a_document_is_one_request_and_the_second_time_none(memory, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    requests = []
    for name in ("cat_file", "get_file"):

        def counted(self, path, *given, read=getattr(MemoryFileSystem, name), **more):
            requests.append(path.rpartition("/")[2])
            return read(self, path, *given, **more)

        monkeypatch.setattr(MemoryFileSystem, name, counted)
    corpus = open_corpus(memory)
    assert sorted(requests) == [
        "blocks.bin", "groups.bin", "index.json", "rows.bin", "similarities.bin", "starts.bin",
    ]  # fmt: skip
    requests.clear()
    document = corpus.documents[0]
    for image in document["image_info"]:
        corpus.read_image(image["image_name"])
    assert requests == ["00000-00000-000.tar"]
    again = open_corpus(memory)
    assert again.documents[0] == document
    assert requests == ["00000-00000-000.tar", "index.json"], "the index and the document were kept"


def test_other_contents_under_the_same_url_are_not_those_that_were_kept(memory, make, shards):
    assert open_corpus(memory).pairs()[0].captions == ("red", "a red square")
    files = fsspec.filesystem("memory")
    files.rm(memory, recursive=True)
    changed = [make.pair("p0", "red.png", "rot", "a red square", source="s")]
    convert(changed, memory)
    assert open_corpus(memory).pairs()[0].captions == ("rot", "a red square")


def test_the_cache_is_bounded_and_lies_where_the_settings_say(memory, tmp_path, monkeypatch):
    monkeypatch.delenv("LCL_DATA_CACHE")
    monkeypatch.setenv("LCL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LCL_DATA_CACHE_BYTES", "3000")
    everything(open_corpus(memory))
    kept = [file.stat().st_size for file in (tmp_path / "home" / "cache" / "ranges").glob("??/*.range")]
    assert 0 < sum(kept) <= 3000
    monkeypatch.setenv("LCL_DATA_CACHE_BYTES", "much")
    with pytest.raises(UserError, match="LCL_DATA_CACHE_BYTES is 'much'"):
        open_corpus(memory)


def test_an_index_that_cannot_be_kept_says_where(memory, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "file" / "in the way"))
    with pytest.raises(UserError, match="LCL_DATA_CACHE") as caught:
        open_corpus(memory)
    assert caught.value.code == "home_unusable"


def test_an_index_of_other_bytes_is_refused(memory):
    files = fsspec.filesystem("memory")
    files.pipe_file(f"{memory}/index/rows.bin", b"other")
    with pytest.raises(UserError, match="sha256") as caught:
        open_corpus(memory)
    assert caught.value.code == "corpus_unreadable"


@pytest.mark.parametrize("url", ["nonsense://bucket/corpus", "memory://nothing-here"])
def test_a_url_that_leads_nowhere_is_named(url):
    with pytest.raises(UserError) as caught:
        open_corpus(url)
    assert caught.value.code in ("corpus_unreadable", "not_found")
    assert url in str(caught.value)


def test_an_index_is_never_whole_in_memory(memory, monkeypatch):
    read = []
    original = RemoteShardStorage.read

    def record(storage, name):
        read.append(name)
        return original(storage, name)

    monkeypatch.setattr(RemoteShardStorage, "read", record)
    open_corpus(memory)
    assert not [name for name in read if name.endswith(".bin")]


@pytest.fixture
def outage(memory, monkeypatch):
    """An open corpus whose store refuses every range from now on, as with a token that has expired."""
    from fsspec.implementations.memory import MemoryFileSystem

    def refuse(self, path, *given, **more):
        raise PermissionError("ExpiredToken")

    monkeypatch.setenv("LCL_DATA_CACHE_BYTES", "0")
    corpus = open_corpus(memory)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse)
    assert isinstance(corpus, ShardedCorpus)
    return corpus


def test_an_outage_makes_no_record_a_damaged_one(outage, tmp_path):
    for read in (
        lambda: list(read_shard_records(outage)),
        lambda: validate(outage),
        lambda: list(usable_image_counts(outage.documents, DataSpec())),
        lambda: convert(read_shard_records(outage), tmp_path / "copy"),
    ):
        with pytest.raises(StoreError) as caught:
            read()
        assert caught.value.code == "store_forbidden"
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("view", ["interleaved", "pairs", "matched_pairs"])
def test_an_outage_leaves_no_sample_out(outage, tokenizer, tmp_path, view):
    data = DataSpec(sources=({"dataset": "d", "view": view},))
    stream = SampleStream(data, {"d": outage}, tokenizer, 4, 16, 120, seed=0)
    resident = resident_sources(data, 16, {"d": outage}, {"d": "0" * 64})["d"]
    for read in (
        lambda: stream[0],
        lambda: stream.measure(0),
        lambda: write_resident_images(resident, tmp_path, 1 << 20),
    ):
        with pytest.raises(StoreError):
            read()
