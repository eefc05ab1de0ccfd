"""The index of images: its memory, and that processes share a large one."""

import os
from pathlib import Path

import pytest

from lcl_core.common.disk_cache import FolderCache
from lcl_core.data.formats import image_lookup
from lcl_core.data.formats.image_lookup import ImageFinder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where every index is shared, however small."""
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_lookup, "SHARED_BYTES", 0)
    return tmp_path / "cache/files"


def write_images(make):
    make.tar("i/1.tar", [("a.jpg", b"a"), ("b.jpg", b"b")])
    make.parquet("i/1.parquet", {"key": ["b"], "url": ["ub"]})
    make.file("i/0.tar", b"no tar")
    make.parquet("i/2.parquet", {"key": ["0"], "url": ["u"]})
    make.files("i", {"2/0.webp": b"by url", "3/d.jpg": b"d", "3/e \u00e9.png": b"e", "f.jpg": b"f"})
    return Path(make.root / "i")


def load_all(finder):
    named = [finder.find(name).load() for name in ("a.jpg", "b.jpg", "d.jpg", "e \u00e9.png", "f.jpg")]
    return [*named, *(finder.find_url(url, "x").load() for url in ("u", "ub"))]


def test_an_index_is_made_once_and_the_same(make, cache, monkeypatch):
    path = write_images(make)
    made = ImageFinder(path, subfolders=True)
    assert load_all(made) == [b"a", b"b", b"d", b"e", b"f", b"by url", b"b"]
    monkeypatch.setattr(image_lookup, "walk_tar", None)  # nothing is read again
    mapped = ImageFinder(path, subfolders=True)
    assert load_all(mapped) == load_all(made)
    assert [item.reason for item in mapped.problems] == ["damaged tar"]
    assert mapped.problems == made.problems
    assert len(list(cache.glob("*/images.db"))) == 1


def test_a_change_makes_another_index(make, cache):
    path = write_images(make)
    os.utime(path / "3", ns=(0, 0))  # before any time that the file system may give
    ImageFinder(path, subfolders=True)
    make.tar("i/1.tar", [("longer name.jpg", b"n"), ("and another.jpg", b"o"), ("third.jpg", b"p"), ("a.jpg", b"new")])
    make.file("i/3/g.jpg", b"g")
    finder = ImageFinder(path, subfolders=True)
    assert [finder.find(name).load() for name in ("a.jpg", "g.jpg")] == [b"new", b"g"]
    assert len(list(cache.glob("*/images.db"))) == 2


def test_an_index_in_use_stays_readable_after_its_eviction(make, cache):
    finder = ImageFinder(write_images(make), subfolders=True)
    with FolderCache(cache, 1).open("another", lambda folder: None, size=1):
        assert not list(cache.glob("*/images.db"))
    assert len(load_all(finder)) == 7


def test_without_a_disk_each_process_has_its_own(make, cache):
    cache.parent.write_bytes(b"no folder")
    assert len(load_all(ImageFinder(write_images(make), subfolders=True))) == 7


def test_a_small_index_is_not_shared(make, tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))
    assert len(load_all(ImageFinder(write_images(make), subfolders=True))) == 7
    assert not (tmp_path / "cache").exists()


def test_an_empty_folder(make, cache):
    make.files("i/1", {"x.txt": b""})
    for _ in range(2):
        assert ImageFinder(make.root / "i", subfolders=True).problems == []
