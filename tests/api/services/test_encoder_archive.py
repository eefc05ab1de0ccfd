"""Copies of imported directories that change meanwhile, and archives of any names."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from api.core.errors import Problem
from api.services import encoder_archive
from api.services.encoder_archive import stage_import, stream_tar, tar_size


def become_link(path: Path) -> None:
    path.rename(path.with_suffix(".kept"))
    path.symlink_to(path.with_suffix(".kept"))


def become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(("change", "words"), [(become_link, "cannot be read"), (become_pipe, "no regular file")])
def test_a_file_that_is_replaced_during_the_copy_is_refused(
    encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], words: str
) -> None:
    source = Path(shutil.copytree(encoder_dir, tmp_path / "source"))
    original, copied = encoder_archive.fsync_path, []

    def replace(path: Path) -> None:
        """After the first file: the tokenizer comes later."""
        original(path)
        copied.append(path)
        if len(copied) == 1:
            change(source / "tokenizer.json")

    monkeypatch.setattr(encoder_archive, "fsync_path", replace)
    with pytest.raises(Problem, match=words) as refused:
        stage_import(source, tmp_path / "encoders", "ada")
    assert (refused.value.status, refused.value.code) == (422, "bad_encoder")
    assert str(source / "tokenizer.json") in refused.value.message
    assert list((tmp_path / "encoders").iterdir()) == []


def test_a_file_that_grows_is_copied_as_long_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "growing.md"
    source.write_bytes(b"0123")
    original = os.fstat

    def grow(descriptor: int) -> os.stat_result:
        found = original(descriptor)
        with source.open("ab") as file:
            file.write(b"4567")
        return found

    monkeypatch.setattr(encoder_archive.os, "fstat", grow)
    encoder_archive._copy_file(source, tmp_path / "copy.md")
    assert (tmp_path / "copy.md").read_bytes() == b"0123"


@pytest.mark.parametrize("length", [1, 30, 64, 99, 100, 101, 200])
def test_an_archive_is_as_long_as_foretold(tmp_path: Path, length: int) -> None:
    folder = "enc_0123456789"
    files = [tmp_path / ("n" * length), tmp_path / "model.safetensors"]
    for number, path in enumerate(files):
        path.write_bytes(b"x" * (511 + number))
    data = b"".join(stream_tar(files, folder))
    assert len(data) == tar_size(files, folder)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == [f"{folder}/{path.name}" for path in files]
