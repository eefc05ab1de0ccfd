"""The little of the tar format that is needed: write members at known offsets, split a range into members."""

from __future__ import annotations

import tarfile

TAR_BLOCK = 512
END = bytes(2 * TAR_BLOCK)
_MODE = 0o644


def padded(size: int) -> int:
    """``size`` rounded up to whole blocks."""
    return -(-size // TAR_BLOCK) * TAR_BLOCK


def member(name: str, data: bytes) -> bytes:
    """One member, the same bytes for the same arguments: no times, no owners."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), 0, _MODE
    header = info.tobuf(tarfile.USTAR_FORMAT)
    return b"".join((header, data, bytes(padded(len(data)) - len(data))))


def split_members(data: bytes) -> dict[str, memoryview]:
    """Contents by the part of the member's name after the first dot.

    Raises: ValueError where the range does not hold whole members.
    """
    found: dict[str, memoryview] = {}
    view = memoryview(data)
    at = 0
    while at < len(data):
        name, size = _header(data[at : at + TAR_BLOCK])
        start, end = at + TAR_BLOCK, at + TAR_BLOCK + size
        if end > len(data):
            raise ValueError(f"member {name} is cut off")
        found[name.partition(".")[2]] = view[start:end]
        at = start + padded(size)
    return found


def _header(block: bytes) -> tuple[str, int]:
    """Name and size of a member as ``member`` writes it; tarfile's own parser takes ten times as long.

    Raises: ValueError.
    """
    if block[257:262] != b"ustar":
        raise ValueError("not a tar header")
    checksum = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if int(block[148:154], 8) != checksum:
        raise ValueError("a tar header is damaged")
    return block[:100].partition(b"\0")[0].decode("ascii"), int(block[124:135], 8)
