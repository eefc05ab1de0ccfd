"""Atomic writes and hashes of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from lcl_core.common.files import sha256_file, write_atomically, write_json_atomically


def test_a_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 4096)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(bytes(range(256)) * 4096).hexdigest()


@pytest.mark.parametrize("durable", [True, False])
def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path, durable: bool) -> None:
    file = tmp_path / "file"
    for content in ("a long first version", "short", b"\0\xff"):
        write_atomically(file, content, durable=durable)
        assert file.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    write_atomically(file, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, "new")
    assert (file.read_text(), os.listdir(tmp_path)) == ("old", ["file"])


def test_a_file_that_is_there_may_be_kept(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in ("first", "second"):
        write_atomically(file, content, mode=0o600, replace=False)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("first", 0o600)
    assert os.listdir(tmp_path) == ["file"]


def test_json_keeps_its_letters(tmp_path: Path) -> None:
    write_json_atomically(tmp_path / "file", {"name": "Ø"})
    assert (tmp_path / "file").read_text(encoding="utf-8") == '{\n "name": "Ø"\n}'
