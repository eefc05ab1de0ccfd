"""Rows of a table about one image as one row, wherever in the table they are.

Rows that follow one another are merged as they are read. For the others the table is walked up to three times: to find
the images that occur again, to collect the captions of their later rows, and for the rows themselves, of which the
first of an image gets all its captions. A walk gives the same rows each time, and so do the joined ones.

Memory: a byte for each run of rows about one image, and the captions that are collected, which are bounded. Hashes of
images, 16 bytes each, are in a temporary file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lcl_core.common.errors import UserError
from lcl_core.data.records import BadItem

MAX_MERGED = 1000  # captions of neighbours; those beyond are collected
MAX_COLLECTED_BYTES = 256 << 20  # captions of later rows, with what Python needs for each
KEY_BYTES = 16
_LIST_BYTES = 200  # of an entry of a dictionary and its list
_KEYS_AT_ONCE = 1 << 20  # sorted in memory


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One row about an image, or several.

    Attributes:
        line: of the first row.
        key: ``KEY_BYTES`` that are equal for rows that differ in nothing but captions and further columns.
        image: name or URL; of an embedded image empty.
        data: of an embedded image; ``path`` is where it came from, maybe empty.
        extra: further columns of the first row.
    """

    line: int
    key: bytes
    image: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    split: str
    source: str
    extra: dict[str, Any]
    path: str = ""
    data: bytes | None = None


Rows = Iterator[ImageRow | BadItem]


def merge_neighbours(rows: Rows) -> Rows:
    """Rows about one image that follow one another as one, with the further columns of the first."""
    pending: ImageRow | None = None
    for row in rows:
        if isinstance(row, BadItem):
            yield row
            continue
        if pending is not None and _can_merge(pending, row):
            pending = replace(pending, captions=(*pending.captions, *row.captions))
            continue
        if pending is not None:
            yield pending
        pending = row
    if pending is not None:
        yield pending


def _can_merge(before: ImageRow, row: ImageRow) -> bool:
    """Rows without captions stay apart: they would be lost."""
    same = before.key == row.key and bool(row.captions)
    return same and len(before.captions) + len(row.captions) <= MAX_MERGED


def join_rows(walk: Callable[[], Rows], name: str) -> Rows:
    """Captions of an image that occurs again go to its first row, and its later rows are left out.

    What cannot be joined within the bound on memory is a BadItem.

    Args:
        walk: the rows from the start, neighbours merged.
        name: of the table, for messages.
    """
    again = find_repeated(_keys(walk()))
    captions, end = _collect_captions(walk(), again) if again.any() else ({}, len(again))
    number = -1
    for row in walk():
        if isinstance(row, BadItem) or not row.captions:
            yield row
            continue
        number += 1
        if not _is_marked(again, number):
            yield replace(row, captions=(*row.captions, *captions.get(row.key, ())))
        elif number >= end:
            detail = "too many images do, so that its captions are left out; sort the table by image"
            yield BadItem(name, row.line, "image occurs again", detail)


def _keys(rows: Rows) -> Iterator[bytes]:
    """Of rows with captions."""
    with suppress(UserError):  # the walk that gives the rows raises it too, after what precedes it
        for row in rows:
            if isinstance(row, ImageRow) and row.captions:
                yield row.key


def find_repeated(keys: Iterable[bytes]) -> NDArray[np.bool_]:
    """For each key, whether it occurred before. Keys are compared in portions, each of which is sorted in memory."""
    with TemporaryFile() as file:
        file.writelines(keys)
        count = file.tell() // KEY_BYTES
        again = np.zeros(count, np.bool_)
        portions = -(-count // _KEYS_AT_ONCE)
        for portion in range(portions):
            chosen = [(start + own, block[own]) for start, block, own in _portion(file, portions, portion)]
            rows, own_keys = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
            order = np.lexsort((own_keys[:, 1], own_keys[:, 0]))  # stable: of equal keys the first stays the first
            same = (own_keys[order[1:]] == own_keys[order[:-1]]).all(axis=1)
            again[rows[order[1:][same]]] = True
    return again


def _portion(
    file: IO[bytes], portions: int, portion: int
) -> Iterator[tuple[int, NDArray[np.uint64], NDArray[np.intp]]]:
    """Number of the first key of each block of the file, the block, and which of its keys belong to the portion."""
    file.seek(0)
    start = 0
    while data := file.read(_KEYS_AT_ONCE * KEY_BYTES):
        block = np.frombuffer(data, np.uint64).reshape(-1, 2)
        yield start, block, np.flatnonzero(block[:, 0] % np.uint64(portions) == portion)
        start += len(block)


def _collect_captions(rows: Rows, again: NDArray[np.bool_]) -> tuple[dict[bytes, list[str]], int]:
    """Captions of the marked rows by key, and the number of the row from which on there is no room for them."""
    captions: dict[bytes, list[str]] = {}
    number, size = -1, 0
    for row in rows:
        if isinstance(row, BadItem) or not row.captions:
            continue
        number += 1
        if _is_marked(again, number):
            size += sum(map(sys.getsizeof, row.captions)) + (0 if row.key in captions else _LIST_BYTES)
            if size > MAX_COLLECTED_BYTES:
                return captions, number
            captions.setdefault(row.key, []).extend(row.captions)
    return captions, number + 1


def _is_marked(again: NDArray[np.bool_], number: int) -> bool:
    return number < len(again) and bool(again[number])  # a file that grows meanwhile has more rows
