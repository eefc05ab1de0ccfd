"""The disk cache: entries are complete, made once, within the bound, and never evicted while in use."""

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from lcl_core.common.disk_cache import FileCache, FolderCache


def writer(size=100, calls=None):
    """A maker of folder entries with one file of ``size`` bytes."""

    def make(folder):
        if calls is not None:
            calls.append(folder.name)
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_bytes(bytes(size))

    return make


def folders(cache):
    return {path.name for path in cache.folder.iterdir() if path.is_dir()}


def opened(cache, name, size=100):
    with cache.open(name, writer(size), size) as path:
        assert (path / "inner" / "file").stat().st_size == size
        return path


def test_an_entry_is_made_once(tmp_path):
    calls: list[str] = []
    cache = FolderCache(tmp_path / "cache", 1000)
    with cache.open("a", writer(100, calls)) as first:
        stamp = first.stat().st_mtime_ns
    with FolderCache(tmp_path / "cache", 1000).open("a", writer(100, calls)) as again:
        assert (again, again.stat().st_mtime_ns) == (first, stamp), "the folder keeps the time of its making"
    assert len(calls) == 1


def test_an_entry_is_on_disk_before_it_appears(tmp_path, monkeypatch):
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def recorded_fsync(handle):
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name.partition(".a.")[0])
        fsync(handle)

    def recorded_rename(path, target):
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    cache = FolderCache(tmp_path, 1000)
    with cache.open("a", writer()):
        pass
    assert sorted(events[:-1]) == ["", "file", "inner"]  # the entry's folder, which has a temporary name, is ""
    assert events[-1] == "rename"


def test_a_maker_that_fails_leaves_no_entry(tmp_path):
    cache = FolderCache(tmp_path, 1000)

    def fail(folder):
        (folder / "file").write_bytes(bytes(10))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), cache.open("a", fail, 10):
        pass
    assert folders(cache) == set()
    opened(cache, "a")


def test_callers_in_threads_wait_for_the_one_that_makes(tmp_path):
    calls: list[str] = []
    waits: list[int] = []
    release, started = threading.Event(), threading.Event()

    def slow(folder):
        started.set()
        release.wait(60)
        writer(100, calls)(folder)

    def work():
        with FolderCache(tmp_path, 1000).open("a", slow, progress=lambda: waits.append(1)) as path:
            assert (path / "inner" / "file").exists()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(60)
    release.set()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_the_least_recently_used_entry_is_evicted_and_one_in_use_stays(tmp_path):
    cache = FolderCache(tmp_path, 250)
    with cache.open("a", writer(), 100):
        os.utime(tmp_path / "a.lock", (1, 1))  # the oldest, but in use
        opened(cache, "b")
        os.utime(tmp_path / "b.lock", (2, 2))
        opened(cache, "c")
        assert folders(cache) == {"a", "c"}
    opened(cache, "d")
    assert folders(cache) == {"c", "d"}


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    (tmp_path / ".a.0badcafe").mkdir()
    (tmp_path / ".a.0badcafe" / "file").write_bytes(bytes(10_000))
    opened(FolderCache(tmp_path, 200), "b")
    assert folders(FolderCache(tmp_path, 200)) == {"b"}


def _fill(folder, process):
    cache, wrong = FileCache(folder, 20_000), 0
    for number in range(150):
        key = f"{(number * (process + 1)) % 60:02}"
        data = cache.read(f"{key}/{key}.range")
        if data is None:
            cache.write(f"{key}/{key}.range", key.encode() * 500)
        else:
            wrong += data != key.encode() * 500
    return wrong


def test_processes_share_the_bound_of_files(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.starmap(_fill, [(tmp_path, process) for process in range(4)]) == [0] * 4
    size = sum(path.stat().st_size for path in tmp_path.glob("??/*.range"))
    assert 0 < size <= 20_000 + 4 * 2000
