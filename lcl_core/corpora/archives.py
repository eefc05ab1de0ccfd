"""Debian and npm packages, unpacked as files below one folder: nothing outside it, and no more than is bearable."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from lcl_core.errors import UserError

_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60
_COMPRESSIONS = {"data.tar": "", "data.tar.gz": "gz", "data.tar.xz": "xz", "data.tar.bz2": "bz2"}
_ERRORS = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one archive's unpacked files."""

    files: int = 200_000
    bytes: int = 4 << 30


def unpack(archive: Path, folder: Path, wants: Callable[[str], bool], bounds: Bounds = Bounds()) -> None:
    """Put the wanted files of a ``.deb`` or ``.tgz`` below ``folder``.

    Links are made where they lead to another place inside it, and left out otherwise; so is what is no file.

    Raises: UserError ``archive_damaged``, ``archive_unsafe`` or ``archive_too_large``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    links: list[tuple[str, str]] = []
    budget = _Budget(archive, bounds)
    try:
        with _opened(archive) as tar:
            for member in tar:
                name = _inside(archive, member.name)
                if name is None or not wants(name):
                    continue
                budget.spend(member.size)
                if member.isreg():
                    _write(tar, member, folder / name)
                elif member.issym():
                    links.append((name, member.linkname))
    except _ERRORS as error:
        raise UserError(f"the archive cannot be unpacked ({error})", code="archive_damaged", file=archive) from error
    for name, target in links:  # after all files, so that none is written through a link
        _link(folder, name, target)


class _Budget:
    def __init__(self, archive: Path, bounds: Bounds) -> None:
        self._archive, self._files, self._bytes = archive, bounds.files, bounds.bytes

    def spend(self, size: int) -> None:
        """Raises: UserError when there is nothing left."""
        self._files -= 1
        self._bytes -= size
        if self._files < 0 or self._bytes < 0:
            message = "the archive unpacks to more than any package should"
            raise UserError(message, code="archive_too_large", file=self._archive)


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    with archive.open("rb") as file:
        compression = "gz" if archive.suffix == ".tgz" else _find_data(file)
        with tarfile.open(fileobj=file, mode=f"r|{compression}") as tar:  # type: ignore[call-overload]
            yield tar


def _find_data(file: IO[bytes]) -> str:
    """Move to the ``data.tar`` of a Debian package; its compression. Raises: ValueError."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError("it is no Debian package")
    while header := file.read(_AR_HEADER):
        if len(header) < _AR_HEADER or header[58:] != b"`\n":
            raise ValueError("a header of the package is damaged")
        name, size = header[:16].decode("ascii").rstrip().rstrip("/"), int(header[48:58])
        if name in _COMPRESSIONS:
            return _COMPRESSIONS[name]
        if name.startswith("data.tar"):
            raise ValueError(f"{name} is compressed in a way that is not known here")
        file.seek(size + size % 2, 1)
    raise ValueError("the package holds no files")


def _inside(archive: Path, name: str) -> str | None:
    """The member's name without what every one begins with; None for the folder itself. Raises: UserError."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        message = f"the archive names a file outside itself, {name[:120]!r}"
        raise UserError(message, code="archive_unsafe", file=archive)
    parts = path.parts[1:] if archive.suffix == ".tgz" else path.parts  # npm's all lie in one folder
    return "/".join(parts) or None


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None, "an ordinary file has contents"
    with source, path.open("wb") as file:
        shutil.copyfileobj(source, file)


def _link(folder: Path, name: str, target: str) -> None:
    """Only forms that cannot leave the folder, whatever its other links are: steps up first, then down."""
    ups = PurePosixPath(target).parts
    steps = next((at for at, part in enumerate(ups) if part != ".."), len(ups))
    place = folder / name
    if target.startswith("/") or ".." in ups[steps:] or steps >= len(PurePosixPath(name).parts) or place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)
