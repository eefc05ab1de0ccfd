"""Images of uploads: named by their folders, read within limits; whatever else an archive holds is named."""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from api.client.payloads import Skipped
from ui import image_uploads
from ui.image_uploads import find_images, read_images, thumbnail


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "crimson").save(out, "PNG")
    return out.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return str(path)


def uploaded(root: Path, *names: str) -> list[str]:
    paths = []
    for number, name in enumerate(names):
        path = root / "key" / "session" / "upload" / str(number) / name
        path.parent.mkdir(parents=True)
        path.write_bytes(png())
        paths.append(str(path))
    return paths


def test_files_are_named_with_the_folder_that_the_browser_named(tmp_path: Path) -> None:
    images, skipped = find_images(uploaded(tmp_path, "fox/1.png", "2.JPG", "3.txt", ".DS_Store"), tmp_path)
    assert [image.name for image in images] == [Path("fox/1.png"), Path("2.JPG")]
    assert [each.path for each in skipped] == [Path("3.txt")]
    assert "png" in skipped[0].reason
    assert dict(read_images(images, skipped))[Path("fox/1.png")] == png()
    assert len(skipped) == 1


def test_names_that_several_images_have_are_told_apart(tmp_path: Path) -> None:
    images, _ = find_images(uploaded(tmp_path, "a/1.png", "a/1.png", "b/1.png"), tmp_path)
    assert [image.name.as_posix() for image in images] == ["a/1.png", "a/1 (2).png", "b/1.png"]


def test_an_archive_is_read_by_its_folders_and_writes_nothing(tmp_path: Path) -> None:
    members = {"photos/fox/1.png": png(), "cat/2.webp": b"x", "notes.txt": b"x", "__MACOSX/fox/._1.png": b"x",
               "../../evil/3.png": png(), "/abs/4.png": png()}  # fmt: skip
    path = archive(tmp_path / "in" / "photos.zip", members)
    images, skipped = find_images([path], tmp_path)
    names = ["photos/fox/1.png", "cat/2.webp", "evil/3.png", "abs/4.png"]
    assert [image.name.as_posix() for image in images] == names
    assert [each.path for each in skipped] == [Path("notes.txt")]
    assert [name.as_posix() for name, _ in read_images(images, skipped)] == names
    assert [each.name for each in tmp_path.rglob("*")] == ["in", "photos.zip"]


def test_a_file_that_is_no_archive_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    good, bad = archive(tmp_path / "good.zip", {"a.png": png()}), tmp_path / "bad.zip"
    for content in (b"", b"no archive", b"PK\x05\x06", b"PK\x05\x06" + bytes(17) + b"\xff"):
        bad.write_bytes(content)
        images, skipped = find_images([str(bad), good], tmp_path)
        assert [image.name for image in images] == [Path("a.png")]
        assert [each.path for each in skipped] == [Path("bad.zip")] or content.startswith(b"PK\x05\x06" + bytes(17))


def test_damaged_members_are_named(tmp_path: Path) -> None:
    path = Path(archive(tmp_path / "a.zip", {"a.png": png((64, 64)), "b.png": png()}))
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF  # inside of the first member
    path.write_bytes(bytes(data))
    skipped: list[Skipped] = []
    images, _ = find_images([str(path)], tmp_path)
    assert [name for name, _ in read_images(images, skipped)] == [Path("b.png")]
    assert [each.path for each in skipped] == [Path("a.png")]


def test_numbers_and_bytes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "a.zip", {f"{number}.png": bytes(1000) for number in range(6)})
    monkeypatch.setattr(image_uploads, "MAX_IMAGES", 4)
    images, skipped = find_images([path], tmp_path)
    assert (len(images), [each.path.name for each in skipped]) == (4, ["4.png", "5.png"])
    monkeypatch.setattr(image_uploads, "MAX_TOTAL_BYTES", 2500)
    assert len(list(read_images(images, skipped))) == 2
    assert "together" in skipped[-1].reason
    monkeypatch.setattr(image_uploads, "MAX_IMAGE_BYTES", 999)
    images, skipped = find_images([path], tmp_path)
    assert (images, len(skipped)) == ([], 6)
    assert "larger than" in skipped[0].reason
    monkeypatch.setattr(image_uploads, "MAX_DIRECTORY_BYTES", 100)
    images, skipped = find_images([path], tmp_path)
    assert (images, [each.reason for each in skipped]) == ([], ["the archive has too many members"])


def test_a_member_that_lies_about_its_size_is_not_unpacked_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(archive(tmp_path / "a.zip", {"a.png": bytes(100_000)}))
    data = path.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(data)
    monkeypatch.setattr(image_uploads, "MAX_IMAGE_BYTES", 50)
    images, skipped = find_images([str(path)], tmp_path)
    assert [len(data) for _, data in read_images(images, skipped)] in ([], [10])


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    paths = uploaded(tmp_path, "1.png")
    images, skipped = find_images(paths, tmp_path)
    Path(paths[0]).unlink()
    assert list(read_images(images, skipped)) == []
    assert skipped[0].reason == "the file is no longer kept; choose it again"


def test_a_thumbnail_is_small_and_only_of_images_that_are_safe_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    address = thumbnail(png((400, 200)))
    kind, _, data = address.partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as small:
        assert (kind, small.size) == ("data:image/webp;base64", (96, 48))
    assert thumbnail(b"no image") == ""
    tiff = io.BytesIO()
    Image.new("RGB", (8, 8)).save(tiff, "TIFF")
    assert thumbnail(tiff.getvalue()) == "", "of a kind that the service does not take"
    monkeypatch.setattr(image_uploads, "MAX_THUMBNAIL_PIXELS", 100)
    assert thumbnail(png((11, 10))) == ""
