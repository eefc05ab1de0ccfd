"""Conversion in parts to a URL: shards are uploaded as they are complete, and used again by the next attempt."""

from dataclasses import replace

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import JobCancelled
from lcl_core.data import open_corpus
from lcl_core.data.shards.convert import convert_parts
from tests.lcl_core.data.shards.part_sources import LENGTHS, SHARD_BYTES, NumberedSource, ShuffledRunner, contents


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))
    return f"file://{tmp_path}/far/made"


def in_parts(source, url, tmp_path, **options):
    more = {"processes": 3, "runner": ShuffledRunner, "part_items": 8, **options}
    return convert_parts(source, url, tmp_path / "work", SHARD_BYTES, **more)


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
    report = in_parts(NumberedSource(LENGTHS), url, tmp_path)
    assert contents(tmp_path / "far" / "made") == contents(tmp_path / "whole")
    assert report.content_hash == open_corpus(url).content_hash()
    assert not list((tmp_path / "work").rglob("*.tar"))
    again = in_parts(NumberedSource(LENGTHS), url, tmp_path)
    assert again == replace(report, resumed=sum(LENGTHS.values())), "once it is complete"


def test_shards_of_an_interrupted_attempt_are_used_again(url, tmp_path):
    interrupt(url, tmp_path)
    far = tmp_path / "far" / "made"
    assert "index.json" not in contents(far)
    times = {path.name: path.stat().st_mtime_ns for path in far.glob("shards/*.tar")}
    assert len(times) > 2
    report = in_parts(NumberedSource(LENGTHS), url, tmp_path)
    assert report.resumed > 100
    assert times.items() <= {path.name: path.stat().st_mtime_ns for path in far.glob("shards/*.tar")}.items()
    whole(tmp_path)
    assert contents(far) == contents(tmp_path / "whole")


def test_a_shard_that_was_removed_meanwhile_is_noticed_before_there_is_a_corpus(url, tmp_path):
    interrupt(url, tmp_path)
    next((tmp_path / "far" / "made").glob("shards/*.tar")).unlink()
    with pytest.raises(UserError, match="of an earlier attempt is gone") as caught:
        in_parts(NumberedSource(LENGTHS), url, tmp_path)
    assert (caught.value.code, caught.value.field) == ("conflict", "to")
    assert "index.json" not in contents(tmp_path / "far" / "made")
