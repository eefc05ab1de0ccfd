"""Atomic writes and hashes of files."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from lcl_core.common.files import (
    file_age,
    read_or_create,
    replace_tree,
    write_atomically,
)


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path):
    file = tmp_path / "file"
    for content in ("a long first version", "short", b"\0\xff"):
        write_atomically(file, content)
        assert file.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_atomically(file, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, "new")
    assert (file.read_text(), os.listdir(tmp_path)) == ("old", ["file"])


def test_the_first_of_many_writers_counts(tmp_path):
    file, together = tmp_path / "folder" / "file", threading.Barrier(16)

    def make(number):
        return f"content of {number}\n"

    def read(number):
        together.wait()  # each finds no file
        return read_or_create(file, partial(make, number), mode=0o600)

    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(read, range(16)))
    assert {text + "\n" for text in found} == {file.read_text()}
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_file_is_an_error_with_the_way_out(tmp_path, content):
    (tmp_path / "file").write_text(content)
    with pytest.raises(OSError, match="the file is empty; remove it, then start again"):
        read_or_create(tmp_path / "file", lambda: "content")


def folder(path, content):
    path.mkdir()
    for name in ("one", "two"):
        (path / name).write_text(content)
    return path


def content(path):
    return {(path / name).read_text() for name in ("one", "two")}


def test_a_folder_is_replaced_and_its_rest_removed(tmp_path):
    target = tmp_path / "target"
    for number in ("0", "1"):
        replace_tree(folder(tmp_path / "new", number), target)
        folder(tmp_path / ".target.old.tmp", "of a process that was killed")
        assert content(target) == {number}
    replace_tree(folder(tmp_path / "new", "2"), target)
    assert content(target) == {"2"}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_the_age_of_a_file_is_by_the_clock_of_its_folder(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert file_age(file) < 3600
    written = file.stat().st_mtime - 7200
    os.utime(file, (written, written))
    assert 7200 <= file_age(file) < 10_800
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    with pytest.raises(FileNotFoundError):
        file_age(tmp_path / "other")
