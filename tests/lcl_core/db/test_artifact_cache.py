"""What was fetched: whole or not there, once, within the bound, and never taken away from who uses it."""

import hashlib

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db.artifacts import ArtifactCache

MOMENT = "2030-01-01T00:00:00+00:00"


def facts_of(data):
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "modified_at": MOMENT}


class Source:
    """Folders of one file of 100 bytes, and how often they were asked for."""

    def __init__(self):
        self.asked = 0
        self.files = {"inner/file": facts_of(b"x" * 100)}

    def read(self, name, size):
        assert (name, size) == ("inner/file", 100)
        self.asked += 1
        yield b"x" * 60
        yield b"x" * 40


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def cache(tmp_path):
    return ArtifactCache(tmp_path / "cache", 250)


def get(cache, source, key):
    with cache.open_cached(key, source.files, source.read) as path:
        assert (path / "inner" / "file").read_bytes() == b"x" * 100
        return path


def kept(cache):
    return {path.name for path in cache.folder.iterdir() if path.is_dir()}


def test_it_is_fetched_once(cache, source):
    path = get(cache, source, "encoders/enc_1/1")
    stamp = path.stat().st_mtime_ns
    assert get(cache, source, "encoders/enc_1/1") == path
    assert (source.asked, path.stat().st_mtime_ns) == (1, stamp)
    assert (path / "inner" / "file").stat().st_mtime == 1893456000.0, "as it was where it was made"


def test_other_bytes_than_were_promised_are_refused(cache, source):
    source.files["inner/file"]["sha256"] = "0" * 64
    with pytest.raises(UserError) as caught, cache.open_cached("a", source.files, source.read):
        pass
    assert caught.value.code == "artifact_damaged"
    assert kept(cache) == set()


def test_a_disk_that_is_full_is_told(tmp_path, source):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError) as caught,
        ArtifactCache(tmp_path / "file" / "x", 9).open_cached("a", source.files, source.read),
    ):
        pass
    assert caught.value.code == "cache_unwritable"
