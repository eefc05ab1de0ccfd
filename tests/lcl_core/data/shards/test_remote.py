"""Corpora at a distance: any fsspec URL, one request a document, retries, a cache on the local disk."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from lcl_core.data import Corpus, open_corpus
from lcl_core.data.loader import load_batches
from lcl_core.data.shards.cache import RangeCache
from lcl_core.data.shards.places import RemotePlace
from lcl_core.data.stream import SampleStream
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.errors import UserError
from lcl_core.specs import BatchSpec, DataSpec


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(make: Any, shards: Callable[..., Path]) -> Path:
    return shards(make.mixed(), shard_bytes=8192)


@pytest.fixture
def memory(folder: Path) -> Iterator[str]:
    """The corpus in fsspec's memory."""
    url = f"memory://{uuid.uuid4().hex}/corpus"
    files = fsspec.filesystem("memory")
    for file in folder.rglob("*"):
        if file.is_file():
            files.pipe_file(f"{url}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    yield url
    files.rm(url, recursive=True)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """An S3-compatible server on a free port of this machine."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("flask", reason="moto's server is not installed")
    server = pytest.importorskip("moto.server", reason="moto's server is not installed")
    started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def s3(s3_server: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The corpus in a bucket of its own."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex}"
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.mkdir(bucket)
    files.put(f"{folder}/", f"{bucket}/corpus/", recursive=True)
    return f"s3://{bucket}/corpus"


@pytest.fixture(params=["file", "memory", "s3"])
def url(request: pytest.FixtureRequest, folder: Path) -> str:
    return f"file://{folder}" if request.param == "file" else str(request.getfixturevalue(request.param))


def everything(corpus: Corpus) -> list[Any]:
    documents, pairs = list(corpus.documents), list(corpus.pairs())
    names = [image["image_name"] for document in documents for image in document["image_info"]]
    names += [pair.image for pair in pairs]
    return [documents, pairs, [corpus.image_bytes(name) for name in names], corpus.splits(), corpus.content_hash()]


def test_any_place_gives_the_same(url: str, folder: Path) -> None:
    assert everything(open_corpus(url)) == everything(open_corpus(folder))


def test_batches_stream_from_anywhere_in_worker_processes(url: str, folder: Path, tokenizer: Tokenizer) -> None:
    data = DataSpec(sources=({"dataset": "d"}, {"dataset": "d", "view": "pairs"}))

    def batches(place: str | Path, workers: int) -> list[list[Any]]:
        stream = SampleStream(data, {"d": open_corpus(place)}, tokenizer, 4, 16, 120, seed=0)
        loaded = load_batches(stream, 0, BatchSpec(tokens=128), workers)
        got = [next(loaded) for _ in range(4)]
        return [[(sample.id, sample.pixels.tobytes()) for sample in batch.samples] for batch in got]

    assert batches(url, 1) == batches(folder, 0)


def test_a_document_is_one_request_and_the_second_time_none(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    requests: list[str] = []
    cat_file = MemoryFileSystem.cat_file

    def counted(self: Any, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        requests.append(path.rpartition("/")[2])
        return cat_file(self, path, start=start, end=end, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    corpus = open_corpus(memory)
    assert sorted(requests) == [
        "blocks.bin", "groups.bin", "index.json", "rows.bin", "similarities.bin", "starts.bin",
    ]  # fmt: skip
    requests.clear()
    document = corpus.documents[0]
    for image in document["image_info"]:
        corpus.read_image(image["image_name"])
    assert requests == ["000000.tar"]
    again = open_corpus(memory)
    assert again.documents[0] == document
    assert requests == ["000000.tar", "index.json"], "the index and the document were kept"


class Flaky:
    """Fails a number of times."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.left, self.error, self.asked = failures, error, 0

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        self.asked += 1
        if self.left:
            self.left -= 1
            raise self.error
        return bytes(range(100))[start:end]


def place(tmp_path: Path, flaky: Flaky) -> RemotePlace:
    remote = RemotePlace("memory://x", RangeCache(tmp_path / "c", 1000), attempts=3, first_wait=0.0)
    remote._opened = (os.getpid(), flaky, "x")
    return remote


@pytest.mark.parametrize("error", [TimeoutError("slow"), ConnectionError("gone"), RuntimeError("503")])
def test_a_failed_read_is_tried_again(tmp_path: Path, error: Exception) -> None:
    flaky = Flaky(2, error)
    assert place(tmp_path, flaky).read_range("a", 10, 5) == bytes(range(10, 15))
    assert flaky.asked == 3
    with pytest.raises(UserError, match=f"3 attempts.*{type(error).__name__}") as caught:
        place(tmp_path, Flaky(3, error)).read_range("b", 10, 5)
    assert (caught.value.code, caught.value.file) == ("file_unreadable", "b")


def test_what_will_not_get_better_is_not_tried_again(tmp_path: Path) -> None:
    for error, code in ((FileNotFoundError("x"), "file_missing"), (PermissionError("x"), "file_unreadable")):
        flaky = Flaky(9, error)
        with pytest.raises(UserError) as caught:
            place(tmp_path, flaky).read("a")
        assert (caught.value.code, flaky.asked) == (code, 1)


def test_a_short_answer_is_not_taken_for_the_document(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        place(tmp_path, Flaky(0, ValueError())).read_range("a", 98, 5)
    assert caught.value.code == "shard_damaged"


def test_an_index_of_other_bytes_is_refused(memory: str) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file(f"{memory}/index/rows.bin", b"other")
    with pytest.raises(UserError, match="sha256") as caught:
        open_corpus(memory)
    assert caught.value.code == "shard_damaged"


@pytest.mark.parametrize("url", ["nonsense://bucket/corpus", "memory://nothing-here"])
def test_a_url_that_leads_nowhere_is_named(url: str) -> None:
    with pytest.raises(UserError) as caught:
        open_corpus(url)
    assert caught.value.code in ("corpus_unreadable", "file_missing")
    assert url in str(caught.value)
