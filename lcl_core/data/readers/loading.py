"""What a picture's ``load`` does, by where the image lies. Functions of plain values, so that records can be sent."""

from __future__ import annotations

import os
from pathlib import Path

from lcl_core.data.images import MAX_IMAGE_BYTES
from lcl_core.data.store import FolderStore, Store
from lcl_core.errors import UserError


def read_slice(path: Path, offset: int, size: int, name: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """A member of a tar. Raises: UserError ``file_too_large`` or ``file_unreadable``, naming ``name``."""
    if size > max_bytes:
        raise _too_large(name, max_bytes)
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise UserError(f"{path.name}: {error.strerror}", code="file_unreadable", file=name) from error
    if len(data) != size:
        raise UserError(f"{path.name} has become shorter", code="file_unreadable", file=name)
    return data


def read_file(root: Path, name: str) -> bytes:
    """A file below a folder. Raises: UserError (``bad_path``, ``file_missing`` …), whatever the name is like."""
    return read_stored(FolderStore(root), name)


def read_stored(store: Store, name: str) -> bytes:
    """A file of a folder or a zip. Raises: UserError, likewise."""
    try:
        return store.read(name, MAX_IMAGE_BYTES)
    except OSError as error:  # a zip on a disk that fails
        raise UserError("the file cannot be read", code="file_unreadable", file=name) from error


def held(data: bytes, name: str) -> bytes:
    """An image whose bytes came with its record. Raises: UserError ``file_too_large``."""
    if len(data) > MAX_IMAGE_BYTES:
        raise _too_large(name, MAX_IMAGE_BYTES)
    return data


def missing(name: str, where: str) -> bytes:
    """An image that is nowhere. Raises: UserError ``file_missing``."""
    raise UserError(f"the image is not in {where}", code="file_missing", file=name)


def _too_large(name: str, max_bytes: int) -> UserError:
    return UserError(f"the file is larger than {max_bytes:,} bytes", code="file_too_large", file=name)
