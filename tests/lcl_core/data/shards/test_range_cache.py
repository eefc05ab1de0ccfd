"""The cache of ranges on the local disk."""

import multiprocessing
import os

from lcl_core.data.shards.storage import RangeCache, range_name


def files(folder):
    return sum(path.stat().st_size for path in folder.glob("??/*.range"))


def test_what_was_put_is_got(tmp_path):
    cache = RangeCache(tmp_path / "cache", 1000)
    assert cache.get("a") is None
    cache.put("a", b"x" * 10)
    cache.put("a", b"x" * 10)
    assert cache.get("a") == b"x" * 10
    assert cache.total_bytes() == files(cache.folder) == 10


def test_the_least_recently_used_goes(tmp_path):
    cache = RangeCache(tmp_path, 1000)
    for number in range(10):
        cache.put(str(number), bytes(100))
        os.utime(cache.path(range_name(str(number))), (number, number))
    assert cache.get("0") is not None
    cache.put("new", bytes(100))
    assert cache.get("0") is not None, "it was used just now"
    assert cache.get("1") is None
    assert cache.get("new") is not None
    assert files(tmp_path) == cache.total_bytes() <= 1000


def test_nothing_larger_than_the_bound_is_kept(tmp_path):
    for bound in (0, 99):
        cache = RangeCache(tmp_path / str(bound), bound)
        cache.put("a", bytes(100))
        assert cache.get("a") is None


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache = RangeCache(tmp_path / "file", 1000)
    cache.put("a", b"x")
    assert cache.get("a") is None


def _fill(folder, process):
    cache = RangeCache(folder, 20_000)
    wrong = 0
    for number in range(150):
        key = str((number * (process + 1)) % 60)
        found = cache.get(key)
        if found is None:
            cache.put(key, key.encode() * 500)
        else:
            wrong += found != key.encode() * 500
    return wrong


def test_processes_share_the_bound(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.starmap(_fill, [(tmp_path, process) for process in range(4)]) == [0] * 4
    assert 0 < files(tmp_path) <= 20_000
    assert RangeCache(tmp_path, 20_000).total_bytes() == files(tmp_path)
