"""The members of a tar as byte ranges: only headers are read, nothing is unpacked."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES

_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True, slots=True)
class TarMember:
    """An ordinary file in a tar: its name as written there, not checked, and where its bytes lie."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class IrregularMember:
    """No ordinary file (a link, a device …): ``broken`` False; or where the tar breaks off: ``broken`` True."""

    name: str
    problem: str
    broken: bool = False


def walk_tar(path: Path) -> Iterator[TarMember | IrregularMember]:
    """Members in their order, folders left out; nothing follows one that is ``broken``.

    Raises: OSError when the file cannot be opened.
    """
    with path.open("rb") as file:
        if file.read(6).startswith(_PACKED):
            yield IrregularMember("", "the tar is compressed; unpack it to a plain .tar", broken=True)
            return
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                total = path.stat().st_size
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # the list would grow with the tar
                    if member.size < 0 or member.offset_data + member.size > total:
                        raise tarfile.ReadError(f"{member.name[:120]!r} has {member.size:,} bytes, the tar ends before")
                    if member.isreg() and not member.issparse():
                        yield TarMember(member.name, member.offset_data, member.size)
                    elif not member.isdir():
                        yield IrregularMember(member.name, "a link, a device, or a sparse file")
                # the library takes a damaged header for the end, and a tar that was cut there for a whole one
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    problem = f"neither header nor end mark at byte {archive.offset:,}; the tar is cut or damaged"
                    yield IrregularMember("", problem, broken=True)
                elif file.read(tarfile.RECORDSIZE).strip(b"\0"):
                    problem = "more follows the end mark (two tars in one file?); make one tar of it"
                    yield IrregularMember("", problem, broken=True)
        except (tarfile.TarError, ValueError, OverflowError) as error:
            yield IrregularMember("", f"the rest cannot be read ({error})", broken=True)


def split_member_name(name: str) -> tuple[str, str]:
    """Key and extension of a member of a WebDataset tar: cut at the first dot of the last part.

    ``a/b.seg.png`` → (``a/b``, ``seg.png``); extensions in lower case, a leading ``./`` dropped.
    """
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def read_range(path: Path, offset: int, size: int, name: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """A member of a tar. Raises: UserError ``file_too_large`` or ``file_unreadable``, naming ``name``."""
    if size > max_bytes:
        raise UserError(f"the file is larger than {max_bytes:,} bytes", code="file_too_large", file=name)
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise UserError(f"{path.name}: {error.strerror}", code="file_unreadable", file=name) from error
    if len(data) != size:
        raise UserError(f"{path.name} has become shorter", code="file_unreadable", file=name)
    return data
