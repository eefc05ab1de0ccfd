"""Parts of an input: the same ones in every process, read with one walk through a section."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

import pytest

from lcl_core.parts.plan import Part, Section, SectionCursor, fingerprint


class Letters:
    """Sections whose items are counted as they are read."""

    def __init__(self, **lengths: int) -> None:
        self._lengths = lengths
        self.read = 0

    def sections(self) -> list[Section]:
        return [Section(key) for key in self._lengths]

    def count_section(self, key: str) -> int:
        return self._lengths[key]

    def read_section(self, key: str, start: int = 0) -> Iterator[str]:
        return islice(self._walk(key), start, None)

    def _walk(self, key: str) -> Iterator[str]:
        for number in range(self._lengths[key]):
            self.read += 1
            yield f"{key}{number}"


def test_parts_in_order_are_the_section() -> None:
    source = Letters(a=10, b=0)
    cursor = SectionCursor(source)
    found, part = [], Part(0, 0)
    while part.section < 2:
        found += cursor.read("ab"[part.section], part.start, 4)
        assert cursor.ended == (part.section == 1 or part.start == 8)
        part = part.next(cursor.items, cursor.ended)
    assert found == [f"a{number}" for number in range(10)]
    assert source.read == 10


def test_a_section_ends_where_a_part_does() -> None:
    cursor = SectionCursor(Letters(a=8))
    for start, ended in ((0, False), (4, True)):
        assert len(list(cursor.read("a", start, 4))) == 4
        assert cursor.ended is ended


def test_ascending_parts_cost_one_walk() -> None:
    source = Letters(a=100)
    cursor = SectionCursor(source)
    for start in range(0, 100, 20):
        assert list(cursor.read("a", start, 5)) == [f"a{number}" for number in range(start, start + 5)]
    assert source.read <= 100


@pytest.mark.parametrize("seed", range(5))
def test_parts_in_any_order_are_the_same(seed: int) -> None:
    parts = [(key, start) for key in "ab" for start in range(0, 30, 7)]
    random.Random(seed).shuffle(parts)
    cursor = SectionCursor(Letters(a=30, b=12))
    for key, start in parts:
        length = {"a": 30, "b": 12}[key]
        expected = [f"{key}{number}" for number in range(start, min(start + 7, length))]
        assert list(cursor.read(key, start, 7)) == expected
        assert (cursor.items, cursor.ended) == (len(expected), start + 7 >= length)


def test_a_part_that_was_not_read_to_its_end_is_read_again() -> None:
    cursor = SectionCursor(Letters(a=30))
    assert list(islice(cursor.read("a", 0, 10), 3)) == ["a0", "a1", "a2"]
    assert list(cursor.read("a", 0, 4)) == ["a0", "a1", "a2", "a3"]
    assert list(cursor.read("a", 4, 2)) == ["a4", "a5"]


def test_names_sort_as_parts_do() -> None:
    parts = [Part(section, start) for section in (0, 2, 11) for start in (0, 1024, 99_328)]
    assert sorted(parts) == parts
    assert sorted(part.name for part in parts) == [part.name for part in parts]


def test_a_fingerprint_tells_inputs_and_settings_apart() -> None:
    given = [
        fingerprint([Section("a", "1"), Section("b", "1")], bound=1),
        fingerprint([Section("a", "1"), Section("b", "2")], bound=1),
        fingerprint([Section("b", "1"), Section("a", "1")], bound=1),
        fingerprint([Section("a", "1")], bound=1),
        fingerprint([Section("a", "1"), Section("b", "1")], bound=2),
    ]
    assert len(set(given)) == len(given)
    assert fingerprint([Section("a", "1"), Section("b", "1")], bound=1) == given[0]
