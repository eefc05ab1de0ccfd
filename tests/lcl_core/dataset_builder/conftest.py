"""Packages and their contents, made on the spot in the real formats."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from lcl_core.dataset_builder.images import ImageWriter
from lcl_core.dataset_builder.packages import Package
from lcl_core.dataset_builder.sources import CorpusSource, SourceFiles
from lcl_core.dataset_builder.sources.base import LicenceChoice

Files = Mapping[str, bytes | str]


def as_bytes(contents: bytes | str) -> bytes:
    return contents.encode() if isinstance(contents, str) else contents


def tar_of(files: Files, links: Mapping[str, str] | None = None, compression: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:  # type: ignore[call-overload]
        for name, contents in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(as_bytes(contents))
            tar.addfile(member, io.BytesIO(as_bytes(contents)))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return buffer.getvalue()


def deb_of(files: Files, links: Mapping[str, str] | None = None, compression: str = "xz") -> bytes:
    """An ar archive of a version, a control archive and the data, as dpkg makes it."""
    data_name = f"data.tar.{compression}" if compression else "data.tar"
    dotted = {f"./{name}" if not name.startswith("/") else name: contents for name, contents in files.items()}
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar_of({"./control": "Package: x\n"}, compression="xz"),
        data_name: tar_of(dotted, {f"./{name}": target for name, target in (links or {}).items()}, compression),
    }
    packed = b"!<arch>\n"
    for name, data in parts.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        packed += data + b"\n" * (len(data) % 2)
    return packed


def tgz_of(files: Files) -> bytes:
    """All files in one folder, as npm packs them."""
    return tar_of({f"package/{name}": contents for name, contents in files.items()}, compression="gz")


def draw_image(colour: str, size: tuple[int, int] = (40, 40), kind: str = "PNG") -> bytes:
    """A disc on white: no two colours are alike, and there is something to see."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((4, 4, size[0] - 4, size[1] - 4), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def square(colour: str) -> str:
    return f'<rect width="16" height="16" fill="{colour}"/>'


def lay_out(folder: Path, files: Files) -> Path:
    """These files below ``folder``."""
    for name, contents in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_bytes(contents))
    return folder


class Kit:
    """What tests of packages and sources need, with one temporary folder."""

    deb_of, tgz_of, tar_of = staticmethod(deb_of), staticmethod(tgz_of), staticmethod(tar_of)
    draw_image, square, lay_out = staticmethod(draw_image), staticmethod(square), staticmethod(lay_out)

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "cache"
        self.images = root / "images"
        self.cache.mkdir()

    def pack(self, package: Package, files: Files, links: Mapping[str, str] | None = None) -> Package:
        """Put the package's archive into the cache; the package pinned to it."""
        data = tgz_of(files) if package.client == "npm" else deb_of(files, links)
        (self.cache / package.file).write_bytes(data)
        return replace(package, sha256=hashlib.sha256(data).hexdigest())

    def packed(self, source: CorpusSource, contents: Mapping[str, Files]) -> CorpusSource:
        """The source, its packages in the cache. ``contents``: files by package; the others are empty."""
        return replace(source, packages=tuple(self.pack(each, contents.get(each.name, {})) for each in source.packages))

    def source_files(
        self, source: CorpusSource, contents: Mapping[str, Files], licences: LicenceChoice = "any"
    ) -> SourceFiles:
        """What the source works with when its packages hold these files."""
        files = {
            package.name: lay_out(self.root / "files" / package.name, contents.get(package.name, {}))
            for package in source.packages
        }
        for folder in files.values():
            folder.mkdir(parents=True, exist_ok=True)
        return SourceFiles(files, ImageWriter(self.images, 128), licences)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


@pytest.fixture
def said() -> tuple[list[str], Callable[[str], None]]:
    """What a command says, and the function to tell it to."""
    lines: list[str] = []
    return lines, lines.append
