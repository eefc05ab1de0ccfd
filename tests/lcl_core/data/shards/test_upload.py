"""Conversions to a URL: a corpus from the moment when its index is there, and none before."""

import uuid

import fsspec
import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import JobCancelled
from lcl_core.data import open_corpus
from lcl_core.data.shards.convert import convert


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


def test_the_same_bytes_as_on_disk(url, make, shards, tmp_path):
    folder = shards(make.mixed(), shard_bytes=8192)
    report = convert(make.mixed(), f"{url}/", shard_bytes=8192)
    local = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert len([name for name in local if name.startswith("shards/")]) > 2
    assert contents(url) == local
    assert report.content_hash == open_corpus(url).content_hash() == open_corpus(folder).content_hash()


def test_there_is_no_corpus_before_all_is_uploaded(url, make):
    def records():
        for number in range(20):
            yield make.pair(str(number), "red.png", "x")
        with pytest.raises(UserError) as caught:
            open_corpus(url)
        assert caught.value.code == "not_found"
        raise JobCancelled

    with pytest.raises(JobCancelled):
        convert(records(), url, shard_bytes=4096)
    assert "index.json" not in contents(url)


def test_nothing_is_overwritten(url, make):
    convert(make.mixed(), url)
    before = contents(url)
    with pytest.raises(UserError) as caught:
        convert(make.mixed()[:1], url)
    assert (caught.value.code, caught.value.field, caught.value.file) == ("conflict", "to", url)
    assert contents(url) == before


def test_a_place_that_cannot_be_written_is_reported(make, tmp_path):
    with pytest.raises(UserError) as caught:
        convert(make.mixed(), "nonsense://bucket/made")
    assert caught.value.code == "corpus_unreadable"
