"""Zip archives from outside: bounds on their list of members, and unpacking that stays inside one folder.

A zip is not trusted: sizes in its directory may be wrong, names may lead out of the folder, and a member may be a link.
Members are counted and measured while they are unpacked, each file is created anew, and links are left out.
"""

from __future__ import annotations

import errno
import stat
import struct
import zipfile
import zlib
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from lcl_core.common.errors import TooLarge, UserError

# Of the list of members of an archive that is read in place, some 300,000 files. zipfile makes an object of each member
# when it opens the archive, which takes ten times the bytes of a short member.
MAX_DIRECTORY_BYTES = 32 << 20
# what zipfile raises for a damaged list of members: a version of the future, an empty name, an extra field cut short
DIRECTORY_ERRORS = (zipfile.BadZipFile, ValueError, NotImplementedError, IndexError, struct.error)
ARCHIVE_ERRORS = (*DIRECTORY_ERRORS, zlib.error, EOFError, RuntimeError)
BLOCK = 1 << 20  # bytes that are unpacked at a time
# Text shrinks to a tenth or so; what grows more than this on unpacking is made to fill a disk or memory, or waste time.
MAX_EXPANSION = 200
MIN_ALLOWANCE_BYTES = 256 << 20  # that a small archive may unpack to
MAX_NAME_PARTS = 32  # each but the last becomes a folder
# a seek to where a damaged list of members says; a name that is too long for a file
_ERRORS_OF_CONTENT = (errno.EINVAL, errno.ENAMETOOLONG)
_MEMBER_BYTES, _LEAST_DIRECTORY_BYTES = 128, 1 << 20  # allowed for the list of members; one has at least 46


class Unpacked(NamedTuple):
    files: int  # number of them
    bytes: int  # of all


def is_system_file(name: str) -> bool:
    """Whether a file or folder is one that systems put into folders and archives unasked, or hidden."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def open_zip(source: Path | BinaryIO) -> zipfile.ZipFile:
    """An archive whose list of members has at most ``MAX_DIRECTORY_BYTES``.

    Raises: DIRECTORY_ERRORS, also for a longer list, which is not parsed; OSError.
    """
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        size = _directory_bytes(file)
    if size > MAX_DIRECTORY_BYTES:
        message = f"its list of members has {size:,} bytes, of {MAX_DIRECTORY_BYTES:,} that it may"
        raise zipfile.BadZipFile(f"{message}; unpack it into a folder, and name the folder")
    return zipfile.ZipFile(source)


def check_directory(path: Path, max_bytes: int) -> None:
    """Check the size of an archive's list of members, before it is parsed. Raises: UserError; OSError."""
    try:
        with path.open("rb") as file:
            size = _directory_bytes(file)
    except DIRECTORY_ERRORS as error:
        raise _bad_archive("this is no zip archive") from error
    if size > max_bytes:
        raise _bad_archive("the archive has too many members")


def _directory_bytes(file: BinaryIO) -> int:
    """Bytes of the list of members that zipfile would read. Raises: DIRECTORY_ERRORS; OSError."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is None:
        raise zipfile.BadZipFile("it has no end record")
    return int(end[zipfile._ECD_SIZE])  # type: ignore[attr-defined]


def unpack_zip(path: Path, target: Path, *, max_bytes: int, max_files: int) -> Unpacked:
    """Unpack the files of an archive below ``target``, which must not exist; hidden files and links are left out.

    What unpacks to more than ``MAX_EXPANSION`` times its size (small ones apart) counts as too large.

    Raises: UserError for an archive that is damaged, encrypted or ambiguous, leads out of the folder or is too large;
        OSError: the disk is full, for instance.
    """
    check_directory(path, max(_LEAST_DIRECTORY_BYTES, max_files * _MEMBER_BYTES))
    max_bytes = min(max_bytes, max(MIN_ALLOWANCE_BYTES, MAX_EXPANSION * path.stat().st_size))
    target.mkdir(mode=0o700)
    files = size = 0
    folders: set[PurePosixPath] = set()
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                relative = _member_path(member)
                if relative is None:
                    continue
                files += 1
                folders.update(relative.parents[:-1])
                if max(files, len(folders)) > max_files:
                    raise _too_large(f"more than {max_files:,} files or folders")
                out = target / relative
                out.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, out.open("xb") as file:
                    while block := source.read(BLOCK):
                        size += len(block)
                        if size > max_bytes:
                            raise _too_large(f"more than {max_bytes / 2**20:,.0f} MiB unpacked")
                        file.write(block)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _bad_archive(f"the archive has {member.filename[:200]!r} twice, or as a file and a folder") from error
    except (*ARCHIVE_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _ERRORS_OF_CONTENT:
            raise
        raise _bad_archive(f"the archive cannot be unpacked; it may be damaged or encrypted ({error})") from error
    return Unpacked(files, size)


def _member_path(member: zipfile.ZipInfo) -> PurePosixPath | None:
    """Where a member belongs; None: it is left out."""
    name = member.filename.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or ":" in path.parts[0]:
        raise _bad_archive(f"the name of {name[:200]!r} leads out of the archive's folder")
    if member.is_dir() or stat.S_ISLNK(member.external_attr >> 16) or any(is_system_file(part) for part in path.parts):
        return None
    if len(path.parts) > MAX_NAME_PARTS:
        what = f"the name {name[:80]!r}… has {len(path.parts)} parts, of {MAX_NAME_PARTS} that it may"
        raise _bad_archive(f"{what}; nest the files less")
    return path


def _bad_archive(message: str) -> UserError:
    return UserError(message, field="archive")


def _too_large(what: str) -> UserError:
    message = f"the archive has {what}; put it into a data root of the service instead"
    return TooLarge(message, field="archive")
