"""Conversions to a URL: a corpus from the moment when its index is there, and none before."""

import json
import uuid

import fsspec
import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import JobCancelled
from lcl_core.data import open_corpus
from lcl_core.data.shards.convert import LOCK_FILE, convert


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def memory():
    url = f"memory://{uuid.uuid4().hex}/made"
    yield url
    files = fsspec.filesystem("memory")
    if files.exists(url):
        files.rm(url, recursive=True)


@pytest.fixture(params=["memory", "s3"])
def url(request):
    if request.param == "s3":
        return f"{request.getfixturevalue('s3_bucket')}/deep/made"
    return str(request.getfixturevalue("memory"))


def contents(url):
    files, path = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    return {name[len(path) + 1 :]: files.cat_file(name) for name in files.find(path)}


def put(url, name, data):
    files, path = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{path}/{name}", data)


def test_the_same_bytes_as_on_disk(url, make, shards, tmp_path):
    folder = shards(make.mixed(), shard_bytes=8192)
    report = convert(make.mixed(), f"{url}/", shard_bytes=8192)
    local = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert len([name for name in local if name.startswith("shards/")]) > 2
    assert contents(url) == local
    assert report.content_hash == open_corpus(url).content_hash() == open_corpus(folder).content_hash()


@pytest.mark.parametrize("error", [UserError("no more"), JobCancelled(), KeyboardInterrupt()])
def test_what_is_interrupted_leaves_nothing(url, make, error):
    def records():
        for number in range(20):
            yield make.pair(str(number), "red.png", "x")
        with pytest.raises(UserError) as caught:
            open_corpus(url)
        assert caught.value.code == "not_found"
        raise error

    with pytest.raises(type(error)):
        convert(records(), url, shard_bytes=4096)
    assert contents(url) == {}


def test_nothing_is_overwritten(url, make):
    convert(make.mixed(), url)
    before = contents(url)
    for owner in ("", "somebody"):
        with pytest.raises(UserError) as caught:
            convert(make.mixed()[:1], url, owner=owner)
        assert (caught.value.code, caught.value.field, caught.value.file) == ("conflict", "to", url)
    assert contents(url) == before


def test_what_is_no_corpus_is_not_touched_either(memory, make):
    put(memory, "letters/first.txt", b"dear")
    with pytest.raises(UserError) as caught:
        convert(make.mixed(), memory)
    assert caught.value.code == "conflict"
    assert contents(memory) == {"letters/first.txt": b"dear"}


def left_by(url, owner):
    """What a killed conversion leaves."""
    put(url, LOCK_FILE, json.dumps({"owner": owner, "token": "t"}).encode())
    put(url, "shards/00000-00007-000.tar", b"half of it")


def test_the_place_of_another_conversion_is_left_alone(url, make):
    left_by(url, "run_1")
    before = contents(url)
    for owner in ("", "run_2"):
        with pytest.raises(UserError) as caught:
            convert(make.mixed(), url, owner=owner)
        assert (caught.value.code, caught.value.field) == ("conflict", "to")
    assert contents(url) == before


def test_the_next_attempt_of_a_killed_one_begins_anew(url, make, shards):
    left_by(url, "run_1")
    convert(make.mixed(), url, owner="run_1")
    assert set(contents(url)) == {
        file.relative_to(folder).as_posix()
        for folder in [shards(make.mixed())]
        for file in folder.rglob("*")
        if file.is_file()
    }


FOREIGN = {"deeper/shards/00000-00000-000.tar": b"a shard", "deeper/index.json": b"{}", "shards/notes.txt": b"dear"}


def test_what_others_have_below_the_url_stays_when_a_conversion_fails_or_is_repeated(url, make):
    """Such as a corpus in a folder there, whose conversion began after this one."""

    def records():
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
    assert "shards/00000-00007-000.tar" not in found


def test_a_place_that_cannot_be_written_is_reported(make, tmp_path):
    with pytest.raises(UserError) as caught:
        convert(make.mixed(), "nonsense://bucket/made")
    assert caught.value.code == "corpus_unreadable"
