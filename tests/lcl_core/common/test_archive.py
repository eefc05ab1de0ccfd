"""Zips from outside: what is unpacked, what is left out, what is refused, and nothing beside the folder."""

import stat
import zipfile
from contextlib import suppress

import pytest

from lcl_core.common import archive as archives
from lcl_core.common.archive import MAX_NAME_PARTS, check_directory, open_zip, unpack_zip
from lcl_core.common.errors import UserError

MANY = 10**9


@pytest.fixture
def pack(tmp_path):
    def call(members):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return tmp_path / "a.zip"

    return call


def below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def refusal(archive, target, max_bytes=MANY, max_files=1000):
    with pytest.raises(UserError) as caught:
        unpack_zip(archive, target, max_bytes=max_bytes, max_files=max_files)
    return caught.value


def test_files_keep_their_folders_and_bytes(pack, tmp_path):
    archive = pack({"docs/a.md": b"# A", "docs/images/one.png": b"png", "empty/": b"", "docs\\b.md": b"B"})
    assert unpack_zip(archive, tmp_path / "out", max_bytes=7, max_files=3) == (3, 7)
    assert below(tmp_path / "out") == {"docs/a.md", "docs/images/one.png", "docs/b.md"}
    assert (tmp_path / "out/docs/images/one.png").read_bytes() == b"png"


def test_system_files_and_links_are_left_out(pack, tmp_path):
    left_out = (".git/config", "__MACOSX/a.md", "docs/.DS_Store", "Thumbs.db")
    archive = pack({"a.md": b"A", **dict.fromkeys(left_out, b"x")})
    with zipfile.ZipFile(archive, "a") as more:
        link = zipfile.ZipInfo("link.md")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        more.writestr(link, "/etc/passwd")
    assert unpack_zip(archive, tmp_path / "out", max_bytes=MANY, max_files=1).files == 1
    assert below(tmp_path / "out") == {"a.md"}


@pytest.mark.parametrize("name", ["../a.md", "docs/../../a.md", "/etc/a.md", "C:/a.md", "..\\a.md", "../docs/"])
def test_names_that_lead_out_of_the_folder(pack, tmp_path, name):
    error = refusal(pack({"first.md": b"1", name: b"A" if not name.endswith("/") else b""}), tmp_path / "out")
    assert (error.code, error.field) == ("invalid_value", "archive")
    assert "leads out" in error.message
    assert not (tmp_path / "a.md").exists()


@pytest.mark.parametrize("name", ["x" * 256, f"{'a/' * MAX_NAME_PARTS}a"])
def test_names_that_are_too_long(pack, tmp_path, name):
    assert refusal(pack({name: b"A"}), tmp_path / "out").field == "archive"


def test_sizes_and_numbers_are_counted_while_unpacking(pack, tmp_path):
    archive = pack({"a.bin": bytes(3 << 20), "b.bin": bytes(3 << 20)})  # 6 MiB in a few kilobytes
    assert archive.stat().st_size < 20_000
    assert refusal(archive, tmp_path / "one", max_bytes=5 << 20).code == "too_large"
    assert sum(path.stat().st_size for path in (tmp_path / "one").iterdir()) <= 5 << 20
    assert refusal(archive, tmp_path / "two", max_files=1).code == "too_large"
    assert unpack_zip(archive, tmp_path / "three", max_bytes=6 << 20, max_files=2) == (2, 6 << 20)


def test_an_archive_made_to_fill_a_disk_is_refused(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MIN_ALLOWANCE_BYTES", 1 << 20)
    assert refusal(pack({"zeros": bytes(4 << 20)}), tmp_path / "out").code == "too_large"
    assert refusal(pack({"a/b/c/x": b""}), tmp_path / "folders", max_files=2).code == "too_large"


def test_whatever_is_damaged_is_an_error_of_the_archive(pack, tmp_path):
    whole = pack({"a.md": b"A" * 100, "b/c.png": bytes(range(256))}).read_bytes()
    damaged = tmp_path / "damaged.zip"
    for number in range(0, len(whole), 3):
        for change in (whole[:number], whole[:number] + bytes([whole[number] ^ 0x55]) + whole[number + 1 :]):
            damaged.write_bytes(change)
            target = tmp_path / f"out{number}_{len(change)}"
            with suppress(UserError):
                unpack_zip(damaged, target, max_bytes=MANY, max_files=10)
            assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("out")} == {
                "a.zip",
                "damaged.zip",
            }


def test_what_is_no_zip_and_a_list_that_is_too_long(pack, tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    assert refusal(tmp_path / "text.zip", tmp_path / "out").code == "invalid_value"
    with pytest.raises(UserError, match="too many members"):
        check_directory(pack({f"{number}.md": b"" for number in range(100)}), 1000)


def test_an_archive_that_is_read_in_place_has_a_bound(pack, monkeypatch):
    path = pack({f"{number}.md": b"" for number in range(100)})
    with open_zip(path) as opened:
        assert len(opened.namelist()) == 100
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 1000)
    with path.open("rb") as file:
        for source in (path, file):
            with pytest.raises(zipfile.BadZipFile, match="unpack it into a folder"):
                open_zip(source)
