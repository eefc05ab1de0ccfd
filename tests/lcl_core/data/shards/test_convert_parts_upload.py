"""Conversion in parts to a URL: shards are uploaded as they are complete, and used again by the next attempt."""

import pytest

from lcl_core.common.errors import StoreError
from lcl_core.common.run_dir import JobCancelled
from lcl_core.common.storage import Storage
from lcl_core.data import open_corpus
from lcl_core.data.shards.convert import LOCK_FILE, UploadLock, convert_parts
from tests.lcl_core.data.shards.part_sources import LENGTHS, SHARD_BYTES, NumberedSource, ShuffledRunner, contents


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))
    return f"file://{tmp_path}/far/made"


def in_parts(source, url, tmp_path, owner="run_1", **options):
    more = {"processes": 3, "runner": ShuffledRunner, "part_items": 8, **options}
    return convert_parts(source, url, tmp_path / "work", SHARD_BYTES, owner=owner, **more)


def whole(tmp_path):
    """The same on disk."""
    convert_parts(NumberedSource(LENGTHS), tmp_path / "whole", tmp_path / "whole-work", SHARD_BYTES, part_items=8)


def interrupt(url, tmp_path, at=150):
    def progress(done):
        if done >= at:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        in_parts(NumberedSource(LENGTHS), url, tmp_path, on_progress=progress)


def test_the_bytes_are_those_on_disk(url, tmp_path):
    whole(tmp_path)
    report = in_parts(NumberedSource(LENGTHS), url, tmp_path).report
    assert contents(tmp_path / "far" / "made") == contents(tmp_path / "whole")
    assert report.content_hash == open_corpus(url).content_hash()
    assert not list((tmp_path / "work").rglob("*.tar"))
    assert in_parts(NumberedSource(LENGTHS), url, tmp_path).report == report, "once it is complete"


def test_shards_of_an_interrupted_attempt_are_used_again(url, tmp_path):
    interrupt(url, tmp_path)
    far = tmp_path / "far" / "made"
    assert LOCK_FILE in contents(far)
    assert "index.json" not in contents(far)
    times = {path.name: path.stat().st_mtime_ns for path in far.glob("shards/*.tar")}
    assert len(times) > 2
    (far / "shards" / "00000-00099-000.tar").write_bytes(b"half of it")
    report = in_parts(NumberedSource(LENGTHS), url, tmp_path)
    assert report.resumed > 100
    assert times.items() <= {path.name: path.stat().st_mtime_ns for path in far.glob("shards/*.tar")}.items()
    whole(tmp_path)
    assert contents(far) == contents(tmp_path / "whole")


def test_without_its_shards_an_attempt_begins_anew(url, tmp_path):
    interrupt(url, tmp_path)
    (tmp_path / "far" / "made" / "shards" / "00000-00001-000.tar").unlink()
    assert in_parts(NumberedSource(LENGTHS), url, tmp_path).resumed == 0
    whole(tmp_path)
    assert contents(tmp_path / "far" / "made") == contents(tmp_path / "whole")


def test_while_the_store_is_away_nothing_that_is_complete_is_given_up(url, tmp_path, monkeypatch):
    def refuse(self, name, start=None, end=None):
        raise StoreError("it does not answer", code="store_unreachable")

    interrupt(url, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "read", refuse)
        with pytest.raises(StoreError):
            in_parts(NumberedSource(LENGTHS), url, tmp_path)
        with pytest.raises(StoreError):
            UploadLock(Storage(url), "run_1").acquire()
    assert in_parts(NumberedSource(LENGTHS), url, tmp_path).resumed > 100
