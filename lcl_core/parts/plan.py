"""Cut an input into parts: ranges of the items of its sections, the same ones in every attempt.

A section is what a source can start to read by itself, such as one file of a corpus. A part is a range of a section's
items. The parts of an input, one after the other, are its items in order, so that outputs joined in the order of the
parts do not depend on how many processes made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

PART_ITEMS = 1024  # of one part: what a killed process loses, a few seconds to a minute of decoding
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Section:
    """A range of an input that can be read by itself.

    Attributes:
        key: names it for the source.
        stamp: changes when its content does, as far as that is cheap to know, such as size and time of a file.
    """

    key: str
    stamp: str = ""


class PartSource(Protocol[T_co]):
    """An input that can be cut into parts; it can be sent to another process."""

    def sections(self) -> Sequence[Section]:
        """In order, the same in every process."""

    def read_section(self, key: str, start: int = 0) -> Iterator[T_co]:
        """The items of a section from number ``start`` on."""

    def count_section(self, key: str) -> int:
        """How many items it has."""


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """Items ``start``, ``start`` + 1, … of a section, ``PART_ITEMS`` of them or those that are left."""

    section: int
    start: int

    @property
    def name(self) -> str:
        """Sorts as the parts do."""
        return f"{self.section:07d}-{self.start:012d}"

    def next(self, items: int, ended: bool) -> Part:
        """The part that follows one of ``items`` items with which the section ``ended``, or did not."""
        return Part(self.section + 1, 0) if ended else Part(self.section, self.start + items)


def fingerprint(sections: Sequence[Section], **settings: Any) -> str:
    """SHA-256 of an input and of the settings that decide what its parts are and what becomes of them."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for section in sections:
        total.update(json.dumps([section.key, section.stamp]).encode() + b"\n")
    return total.hexdigest()


class SectionCursor(Generic[T]):
    """Reads parts of a source. A part that follows the last one read continues its walk.

    A process that gets the parts of a section in ascending order therefore walks through the section once, also where
    the source cannot seek.

    Attributes:
        items: how many items the last part had.
        ended: whether its section has no further item.
    """

    def __init__(self, source: PartSource[T]) -> None:
        self._source = source
        self._key: str | None = None
        self._at = 0
        self._walk: Iterator[T] = iter(())
        self._next: list[T] = []
        self.items, self.ended = 0, False

    def read(self, key: str, start: int, limit: int) -> Iterator[T]:
        """At most ``limit`` items of a section from number ``start`` on."""
        self._seek(key, start)
        self.items, self.ended = 0, False
        self._key = None  # until the part is complete: the position is not known if anything is raised
        while self.items < limit and (item := self._pop()):
            self.items += 1
            yield item[0]
        self._next = self._pop()
        self.ended = not self._next
        self._key, self._at = key, start + self.items

    def _pop(self) -> list[T]:
        """The next item in a list; empty at the end."""
        found, self._next = self._next or list(islice(self._walk, 1)), []
        return found

    def _seek(self, key: str, start: int) -> None:
        if self._key != key or self._at > start:
            self._walk, self._next = self._source.read_section(key, start), []
            return
        while self._at < start and self._pop():
            self._at += 1
