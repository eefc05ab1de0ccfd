"""Rows of a table about one image, wherever in the table they are."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pytest

from lcl_core.data.formats import image_rows, open_reader
from lcl_core.data.formats.base import file_stamp
from lcl_core.data.formats.remote_files import RemoteFiles
from lcl_core.data.formats.table import TableReader
from lcl_core.data.formats.table_columns import TableOptions
from lcl_core.data.records import CaptionedImage


def test_an_image_that_occurs_again_is_one_record(make: Any, walk: Any, sample_images: list[bytes]) -> None:
    """A table made of COCO's annotations, in the order of their ids, without and with a second run of an image."""
    rows = [("a", "one"), ("b", "two"), ("a", "three"), ("c", "four"), ("b", "five"), ("b", "six"), ("./a", "seven")]
    make.file("t.csv", "\n".join(["image,caption", *(f"{image}.webp,{text}" for image, text in rows)]))
    reader = open_reader(make.root)
    records, bad = walk(reader)
    assert [(record.id, record.body) for record in records] == [
        ("t.csv:2", CaptionedImage("a.webp", ("one", "three", "seven"))),
        ("t.csv:3", CaptionedImage("b.webp", ("two", "five", "six"))),
        ("t.csv:5", CaptionedImage("c.webp", ("four",))),
    ]
    assert bad == []
    assert [record.id for record in reader.read_section("t.csv", 1)] == ["t.csv:3", "t.csv:5"]
    assert len(walk(open_reader(make.root, group=False))[0]) == 7


def test_images_in_the_rows_that_occur_again(make: Any, walk: Any, sample_images: list[bytes]) -> None:
    cells = [{"bytes": sample_images[number], "path": None} for number in (0, 1, 0, 1)]
    table = pa.table(
        {
            "image": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "caption": ["one", "two", "three", "four"],
        }
    )
    make.parquet("t.parquet", table)
    records, bad = walk(open_reader(make.root))
    assert ([record.body.captions for record in records], bad) == ([("one", "three"), ("two", "four")], [])
    assert [record.images[0].load() for record in records] == sample_images[:2]


def test_what_cannot_be_joined_is_reported(
    make: Any, walk: Any, sample_images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    make.file("t.csv", "image,caption\na.webp,one\nb.webp,two\na.webp,three\nb.webp,four\n")
    monkeypatch.setattr(image_rows, "MAX_COLLECTED_BYTES", 300)
    records, (again,) = walk(open_reader(make.root))
    assert [record.body.captions for record in records] == [("one", "three"), ("two",)]
    assert (again.file, again.line, again.reason) == ("t.csv", 5, "image occurs again")
    assert "sort the table by image" in again.detail


def test_neighbours_beyond_a_bound_are_joined_too(
    make: Any, walk: Any, sample_images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_rows, "MAX_MERGED", 2)
    make.file("t.csv", "image,caption\n" + "".join(f"a.webp,{number}\n" for number in range(5)))
    (record,), bad = walk(open_reader(make.root))
    assert (record.body.captions, bad) == (tuple("01234"), [])


def test_keys_are_compared_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_rows, "_KEYS_AT_ONCE", 7)
    numbers = [number % 40 for number in range(100)]
    keys = [hashlib.blake2b(bytes([number]), digest_size=image_rows.KEY_BYTES).digest() for number in numbers]
    assert image_rows.find_repeated(keys).tolist() == [position >= 40 for position in range(100)]
    assert image_rows.find_repeated([]).tolist() == []


def test_what_an_earlier_version_began_is_not_continued(make: Any, sample_images: list[bytes]) -> None:
    """It numbered the records of unsorted tables otherwise."""
    file = make.file("t.csv", "image,caption\na.webp,x\n")
    for reader in (open_reader(make.root), RemoteFiles(f"file://{make.root}", "table", TableOptions())):
        _, section = reader.sections()
        assert section.stamp.endswith(TableReader.revision)
        assert section.stamp != file_stamp(file)
