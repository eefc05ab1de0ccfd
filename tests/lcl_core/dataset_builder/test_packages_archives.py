"""Packages are unpacked inside their folder, within bounds, or not at all."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.dataset_builder.packages import UnpackLimits, unpack_archive


def everything(name: str) -> bool:
    return True


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def saved(tmp_path: Path, name: str, data: bytes) -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


@pytest.mark.parametrize("compression", ["", "gz", "xz", "bz2"])
def test_a_debian_package(kit: Any, tmp_path: Path, compression: str) -> None:
    data = kit.deb_of({"usr/a/one.txt": "1", "usr/b/two.txt": "22", "etc/x": "x"}, compression=compression)
    archive = saved(tmp_path, "x_1_all.deb", data)
    unpack_archive(archive, tmp_path / "out", lambda name: name.startswith("usr/"))
    assert files_in(tmp_path / "out") == {"usr/a/one.txt": b"1", "usr/b/two.txt": b"22"}


def test_an_npm_package_loses_the_folder_around_it(kit: Any, tmp_path: Path) -> None:
    archive = saved(tmp_path, "x-1.tgz", kit.tgz_of({"icons.json": "{}", "sub/a": "a"}))
    unpack_archive(archive, tmp_path / "out", everything)
    assert files_in(tmp_path / "out") == {"icons.json": b"{}", "sub/a": b"a"}


def test_links_stay_inside_or_are_left_out(kit: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    links = {
        "doc/html/index.html": "cover.html",
        "doc/de/pic.png": "../html/pic.png",
        "doc/away": "/etc/passwd",
        "doc/up": "../../secret",
        "doc/turn": "html/../../../secret",
        "doc/html/cover.html": "pic.png",
        "top": "../secret",
    }
    archive = saved(tmp_path, "x_1_all.deb", kit.deb_of({"doc/html/cover.html": "c", "doc/html/pic.png": "p"}, links))
    unpack_archive(archive, tmp_path / "out", everything)
    assert files_in(tmp_path / "out") == {
        "doc/html/cover.html": b"c",
        "doc/html/index.html": b"c",
        "doc/html/pic.png": b"p",
        "doc/de/pic.png": b"p",
    }
    assert not any(path.is_symlink() and not path.exists() for path in (tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "a\\..\\b"])
def test_a_name_that_leads_outside_is_refused(kit: Any, tmp_path: Path, name: str) -> None:
    archive = saved(tmp_path, "x_1_all.deb", kit.deb_of({"ok": "1", name: "2"}))
    with pytest.raises(UserError) as caught:
        unpack_archive(archive, tmp_path / "deep" / "out", everything)
    assert caught.value.code == "archive_unsafe"
    assert not (tmp_path / "out.txt").exists()
    assert not (tmp_path / "deep" / "out.txt").exists()


def test_an_absolute_name_is_refused(kit: Any, tmp_path: Path) -> None:
    archive = saved(tmp_path, "x_1_all.deb", kit.deb_of({str(tmp_path / "planted"): "x"}))
    with pytest.raises(UserError) as caught:
        unpack_archive(archive, tmp_path / "out", everything)
    assert caught.value.code == "archive_unsafe"
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("bounds", [UnpackLimits(files=2), UnpackLimits(bytes=25)])
def test_what_unpacks_to_too_much_is_refused(kit: Any, tmp_path: Path, bounds: UnpackLimits) -> None:
    archive = saved(tmp_path, "x-1.tgz", kit.tgz_of(dict.fromkeys("abc", "0123456789")))
    with pytest.raises(UserError) as caught:
        unpack_archive(archive, tmp_path / "out", everything, bounds)
    assert caught.value.code == "archive_too_large"
    unpack_archive(archive, tmp_path / "again", lambda name: name != "b", bounds)


@pytest.mark.parametrize("cut", [4, 70, 300])
def test_a_damaged_archive_is_named(kit: Any, tmp_path: Path, cut: int) -> None:
    archive = saved(tmp_path, "x_1_all.deb", kit.deb_of({"a": "a" * 3000})[:cut])
    with pytest.raises(UserError) as caught:
        unpack_archive(archive, tmp_path / "out", everything)
    assert (caught.value.code, caught.value.file) == ("archive_damaged", str(archive))


def test_a_full_disk_is_not_taken_for_a_damaged_archive(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = saved(tmp_path, "x-1.tgz", kit.tgz_of({"a": "a"}))
    monkeypatch.setattr("lcl_core.dataset_builder.packages.shutil.copyfileobj", fail)
    with pytest.raises(OSError, match="No space"):
        unpack_archive(archive, tmp_path / "out", everything)


def test_a_compression_that_is_not_known_is_said(kit: Any, tmp_path: Path) -> None:
    data = kit.deb_of({"a": "a"}).replace(b"data.tar.xz ", b"data.tar.zst")
    with pytest.raises(UserError, match=r"data\.tar\.zst is compressed"):
        unpack_archive(saved(tmp_path, "x_1_all.deb", data), tmp_path / "out", everything)
