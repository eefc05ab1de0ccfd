"""Conversions to a URL: a corpus from the moment when its index is there, and none before."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import JobCancelled
from lcl_core.data import open_corpus
from lcl_core.data.records import Record
from lcl_core.data.shards.convert import convert
from lcl_core.data.shards.writer import LOCK_FILE


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def memory() -> Iterator[str]:
    url = f"memory://{uuid.uuid4().hex}/made"
    yield url
    files = fsspec.filesystem("memory")
    if files.exists(url):
        files.rm(url, recursive=True)


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3_bucket')}/deep/made"
    return str(request.getfixturevalue("memory"))


def contents(url: str) -> dict[str, bytes]:
    files, path = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    return {name[len(path) + 1 :]: files.cat_file(name) for name in files.find(path)}


def put(url: str, name: str, data: bytes) -> None:
    files, path = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{path}/{name}", data)


def test_the_same_bytes_as_on_disk(url: str, make: Any, shards: Callable[..., Path], tmp_path: Path) -> None:
    folder = shards(make.mixed(), shard_bytes=8192)
    (tmp_path / "scratch").mkdir()
    report = convert(make.mixed(), f"{url}/", shard_bytes=8192, scratch=tmp_path / "scratch")
    local = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert len([name for name in local if name.startswith("shards/")]) > 2
    assert contents(url) == local
    assert report.content_hash == open_corpus(url).content_hash() == open_corpus(folder).content_hash()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_shard_leaves_the_disk_when_it_is_full_and_the_index_comes_last(
    memory: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    put_file, pipe_file = MemoryFileSystem.put_file, MemoryFileSystem.pipe_file
    sent: list[str] = []

    def noted(write: Any, place: int) -> Any:
        def call(self: Any, *given: Any, **more: Any) -> Any:
            sent.append(str(given[place]).partition("/made/")[2])
            assert len(list(tmp_path.glob("*/shards/*.tar"))) <= 2
            return write(self, *given, **more)

        return call

    monkeypatch.setattr(MemoryFileSystem, "put_file", noted(put_file, 1))
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", noted(pipe_file, 0))
    records = [make.pair(str(number), "red.png", "x") for number in range(40)]
    shards = convert(records, memory, shard_bytes=8192, scratch=tmp_path).shards
    assert shards > 5
    assert sent[0] == LOCK_FILE
    assert sent[1 : shards + 1] == [f"shards/{number:06d}.tar" for number in range(shards)]
    assert sent[-1] == "index.json"
    assert LOCK_FILE not in contents(memory)


@pytest.mark.parametrize("error", [UserError("no more"), JobCancelled(), KeyboardInterrupt()])
def test_what_is_interrupted_leaves_nothing(url: str, make: Any, error: BaseException) -> None:
    def records() -> Iterator[Record]:
        for number in range(20):
            yield make.pair(str(number), "red.png", "x")
        assert any(name.startswith("shards/") for name in contents(url))
        with pytest.raises(UserError) as caught:
            open_corpus(url)
        assert caught.value.code == "corpus_missing"
        raise error

    with pytest.raises(type(error)) as caught:
        convert(records(), url, shard_bytes=4096)
    assert contents(url) == {}
    assert any("left nothing at" in note for note in caught.value.__notes__)


def test_a_corpus_without_records_is_none_where_that_is_asked_for(memory: str) -> None:
    with pytest.raises(UserError, match="it is empty") as caught:
        convert([], memory, allow_empty=False)
    assert caught.value.code == "nothing_converted"
    assert contents(memory) == {}


def test_nothing_is_overwritten(url: str, make: Any) -> None:
    convert(make.mixed(), url)
    before = contents(url)
    for owner in ("", "somebody"):
        with pytest.raises(UserError) as caught:
            convert(make.mixed()[:1], url, owner=owner)
        assert (caught.value.code, caught.value.field, caught.value.file) == ("target_exists", "to", url)
    assert contents(url) == before


def test_what_is_no_corpus_is_not_touched_either(memory: str, make: Any) -> None:
    put(memory, "letters/first.txt", b"dear")
    with pytest.raises(UserError) as caught:
        convert(make.mixed(), memory)
    assert caught.value.code == "target_exists"
    assert contents(memory) == {"letters/first.txt": b"dear"}


def left_by(url: str, owner: str) -> None:
    """What a killed conversion leaves."""
    put(url, LOCK_FILE, json.dumps({"owner": owner, "token": "t"}).encode())
    put(url, "shards/000007.tar", b"half of it")


def test_the_place_of_another_conversion_is_left_alone(url: str, make: Any) -> None:
    left_by(url, "run_1")
    before = contents(url)
    for owner in ("", "run_2"):
        with pytest.raises(UserError) as caught:
            convert(make.mixed(), url, owner=owner)
        assert (caught.value.code, caught.value.field) == ("conversion_running", "to")
    assert contents(url) == before


def test_the_next_attempt_of_a_killed_one_begins_anew(url: str, make: Any, shards: Callable[..., Path]) -> None:
    left_by(url, "run_1")
    assert convert(make.mixed(), url, owner="run_1").removed_leftover
    assert set(contents(url)) == {
        file.relative_to(folder).as_posix()
        for folder in [shards(make.mixed())]
        for file in folder.rglob("*")
        if file.is_file()
    }


FOREIGN = {"deeper/shards/000000.tar": b"a shard", "deeper/index.json": b"{}", "shards/notes.txt": b"dear"}


def test_what_others_have_below_the_url_stays_when_a_conversion_fails_or_is_repeated(url: str, make: Any) -> None:
    """Such as a corpus in a folder there, whose conversion began after this one."""

    def records() -> Iterator[Record]:
        yield from (make.pair(str(number), "red.png", "x") for number in range(20))
        for name, data in FOREIGN.items():
            put(url, name, data)
        raise JobCancelled

    with pytest.raises(JobCancelled):
        convert(records(), url, shard_bytes=4096, owner="run_1")
    assert contents(url) == FOREIGN
    left_by(url, "run_1")
    convert(make.mixed(), url, owner="run_1")
    found = contents(url)
    assert {name: found[name] for name in FOREIGN} == FOREIGN
    assert "shards/000007.tar" not in found


def test_of_two_at_once_the_first_index_stands(url: str, make: Any) -> None:
    def records() -> Iterator[Record]:
        yield make.pair("p", "red.png", "x")
        put(url, "index.json", b"of another")

    with pytest.raises(UserError) as caught:
        convert(records(), url)
    assert caught.value.code == "target_exists"


def test_one_whose_claim_was_taken_over_removes_nothing(memory: str, make: Any) -> None:
    def records() -> Iterator[Record]:
        yield make.pair("p", "red.png", "x")
        left_by(memory, "run_1")
        raise JobCancelled

    with pytest.raises(JobCancelled):
        convert(records(), memory, owner="run_1")
    assert {LOCK_FILE, "shards/000007.tar"} <= set(contents(memory))


def test_a_place_that_cannot_be_written_is_reported(make: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        convert(make.mixed(), "nonsense://bucket/made", scratch=tmp_path)
    assert caught.value.code == "corpus_unreadable"
