"""Conversations about images: LLaVA's JSON, JSON lines and Parquet."""

import json

import pytest

from lcl_core.data import ImageSegment, TextSegment
from lcl_core.data.formats import open_reader

ROW = {
    "id": "7",
    "image": "coco/a.png",
    "conversations": [
        {"from": "human", "value": "What is this?\n<image>"},
        {"from": "gpt", "value": "A red fish."},
    ],
}


def write_json(make, rows):
    make.file("llava.json", json.dumps(rows))


def write_lines(make, rows):
    make.jsonl("llava.jsonl", rows)


def write_parquet(make, rows):
    make.parquet("train-00000-of-00001.parquet", {name: [row[name] for row in rows] for name in rows[0]})


@pytest.mark.parametrize("write", [write_json, write_lines, write_parquet])
def test_an_image_stands_where_its_mark_is(make, walk, write):
    write(make, [ROW, ROW])
    make.file("images/coco/a.png", b"pixels")
    reader = open_reader(make.root)
    records, bad = walk(reader)
    assert (reader.format, bad, [record.id.rpartition(":")[2] for record in records]) == (
        "conversations",
        [],
        ["1", "2"],
    )
    texts = TextSegment("What is this?"), TextSegment("A red fish.")
    assert records[0].body.segments == (texts[0], ImageSegment("0"), texts[1])
    assert (records[0].images[0].load(), records[0].extra) == (b"pixels", {"id": "7"})


def test_images_beside_the_file_several_images_and_rows_without_one(make, walk):
    two = {"image": ["a.png", "b.png"], "conversations": [{"from": "human", "value": "Between <image> them."}]}
    make.file("rows.json", json.dumps([two, {"conversations": [{"from": "gpt", "value": "No image."}]}]))
    make.files(".", {"a.png": b"a", "b.png": b"b"})
    (first, second), bad = walk(open_reader(make.root))
    assert bad == []
    assert first.body.segments == (
        *(ImageSegment("0"), TextSegment("Between"), ImageSegment("1"), TextSegment("them.")),
    )
    assert [image.load() for image in first.images] == [b"a", b"b"]
    assert second.body.segments == (TextSegment("No image."),)


def test_embedded_images_of_parquet(make, walk):
    turns = [[{"from": "human", "value": "Look."}]]
    make.parquet("a.parquet", {"image": [{"bytes": b"pixels", "path": "x.png"}], "conversations": turns})
    (record,), bad = walk(open_reader(make.root))
    assert (record.images[0].load(), bad) == (b"pixels", [])


def test_rows_that_are_no_conversation_are_named(make, walk):
    turn = {"from": "human", "value": "<image>"}
    rows = [{"conversations": [turn]}, {"conversations": [{"from": "gpt"}]}, {"conversations": "no"}, 3, ROW]
    make.file("rows.json", json.dumps(rows))
    (record,), bad = walk(open_reader(make.root))
    assert record.id == "rows.json:5"
    assert [(item.line, item.detail.partition(",")[0]) for item in bad] == [
        (1, "the turns have 1 marks <image>"),
        (2, "each of conversations needs a string value"),
        (3, "conversations must be a list of objects with from and value"),
        (4, "it must be an object"),
    ]
