"""What was fetched: whole or not there, once, within the bound, and never taken away from who uses it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db.artifacts import ArtifactCache

MOMENT = "2030-01-01T00:00:00+00:00"


def facts_of(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "modified_at": MOMENT}


class Source:
    """Folders of one file of 100 bytes, and how often they were asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.files = {"inner/file": facts_of(b"x" * 100)}

    def read(self, name: str, size: int) -> Iterator[bytes]:
        assert (name, size) == ("inner/file", 100)
        self.asked += 1
        yield b"x" * 60
        yield b"x" * 40


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache", 250)


def get(cache: ArtifactCache, source: Source, key: str) -> Path:
    with cache.open_cached(key, source.files, source.read) as path:
        assert (path / "inner" / "file").read_bytes() == b"x" * 100
        return path


def kept(cache: ArtifactCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir() if path.is_dir()}


def test_it_is_fetched_once(cache: ArtifactCache, source: Source) -> None:
    path = get(cache, source, "encoders/enc_1/1")
    stamp = path.stat().st_mtime_ns
    assert get(cache, source, "encoders/enc_1/1") == path
    assert (source.asked, path.stat().st_mtime_ns) == (1, stamp)
    assert (path / "inner" / "file").stat().st_mtime == 1893456000.0, "as it was where it was made"


def test_many_at_once_wait_for_one(cache: ArtifactCache, source: Source) -> None:
    ticks: list[int] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            with ArtifactCache(cache.folder, 250).open_cached(
                "e/1", source.files, source.read, lambda: ticks.append(1)
            ) as path:
                assert (path / "inner" / "file").stat().st_size == 100
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (errors, source.asked) == ([], 1)
    assert len(ticks) >= 2, "who fetches tells that it goes on"


def test_the_least_recently_used_goes_first_and_what_is_in_use_stays(cache: ArtifactCache, source: Source) -> None:
    with cache.open_cached("a", source.files, source.read):
        os.utime(cache.folder / "a.lock", (1, 1))  # the oldest of all, but somebody is at it
        get(cache, source, "b")
        os.utime(cache.folder / "b.lock", (2, 2))
        get(cache, source, "c")
        assert kept(cache) == {"a", "c"}
    get(cache, source, "d")
    assert kept(cache) == {"c", "d"}


def test_other_bytes_than_were_promised_are_refused(cache: ArtifactCache, source: Source) -> None:
    source.files["inner/file"]["sha256"] = "0" * 64
    with pytest.raises(UserError) as caught, cache.open_cached("a", source.files, source.read):
        pass
    assert caught.value.code == "artifact_damaged"
    assert kept(cache) == set()


def test_fetching_that_is_broken_off_leaves_nothing_to_be_mistaken(cache: ArtifactCache, source: Source) -> None:
    (cache.folder / ".a.0badcafe").mkdir(parents=True)  # of a process that was killed
    (cache.folder / ".a.0badcafe" / "file").write_bytes(b"x" * 10_000)

    class Leaving(Exception):
        pass

    def refuse() -> None:
        raise Leaving

    with pytest.raises(Leaving), cache.open_cached("b", source.files, source.read, refuse):
        pass
    assert kept(cache) == set()
    get(cache, source, "b")
    assert kept(cache) == {"b"}


def test_a_disk_that_is_full_is_told(tmp_path: Path, source: Source) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError) as caught,
        ArtifactCache(tmp_path / "file" / "x", 9).open_cached("a", source.files, source.read),
    ):
        pass
    assert caught.value.code == "cache_unwritable"
