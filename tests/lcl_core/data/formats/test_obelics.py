"""OBELICS: Parquet and Arrow rows, images by URL or embedded."""

import json

import pyarrow as pa
import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import ImageSegment, TextSegment
from lcl_core.data.formats import open_reader

SCHEMA = pa.schema(
    [
        ("images", pa.list_(pa.string())),
        ("metadata", pa.string()),
        ("general_metadata", pa.string()),
        ("texts", pa.list_(pa.string())),
    ]
)


def rows(sample):
    """Two documents: text, image, text, image; and an image that stands twice with a text between."""
    urls = list(sample.urls())
    texts = sample.documents[0]["text_list"]
    first = {"images": [None, urls[0], None, urls[1]], "texts": [texts[0], None, texts[1], None]}
    second = {"images": [urls[2], None, urls[2]], "texts": [None, "\n\n" + texts[2], None]}
    for number, row in enumerate((first, second)):
        about = [url and {"src": url, "alt_text": f"of {url}", "original_width": 72} for url in row["images"]]
        row["metadata"] = json.dumps(about)
        row["general_metadata"] = json.dumps({"url": f"http://example.org/{number}", "warc_offset": number})
    return [first, second]


def write(make, kind, table):
    if kind == "parquet":
        make.parquet("data/train-00000-of-00002.parquet", table.slice(0, 1))
        make.parquet("data/train-00001-of-00002.parquet", table.slice(1))
    else:
        make.arrow("data-00000-of-00002.arrow", table.slice(0, 1), stream=kind == "arrow stream")
        make.arrow("data-00001-of-00002.arrow", table.slice(1), stream=kind == "arrow stream")


@pytest.mark.parametrize("kind", ["parquet", "arrow stream", "arrow file"])
def test_rows_become_documents(make, sample, walk, kind):
    given = rows(sample)
    write(make, kind, pa.Table.from_pylist(given, SCHEMA))
    reader = open_reader(make.root, images=make.img2dataset("images", sample.urls()))
    records, bad = walk(reader)
    assert (reader.format, bad) == ("obelics", [])
    first, second = records
    stem = "data/train-0000{}-of-00002.parquet:1" if kind == "parquet" else "data-0000{}-of-00002.arrow:1"
    assert [record.id for record in records] == [stem.format(0), stem.format(1)]
    texts, urls = given[0]["texts"], given[0]["images"]
    assert first.body.segments == (TextSegment(texts[0]), ImageSegment("1"), TextSegment(texts[2]), ImageSegment("3"))
    assert second.body.segments == (ImageSegment("0"), TextSegment(given[1]["texts"][1]), ImageSegment("0"))
    assert [image.load() for image in first.images] == [sample.urls()[urls[1]], sample.urls()[urls[3]]]
    assert [image.load() for image in second.images] == [sample.urls()[given[1]["images"][0]]]
    assert first.extra["general_metadata"] == {"url": "http://example.org/0", "warc_offset": 0}
    assert first.extra["images"]["1"] == {
        "url": urls[1],
        "src": urls[1],
        "alt_text": f"of {urls[1]}",
        "original_width": 72,
    }


STRUCT = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


@pytest.mark.parametrize("layout", ["bytes", "struct", "column of bytes", "column of struct"])
def test_embedded_images(make, sample, walk, layout):
    (url, data), *_ = sample.urls().items()
    schema, options = SCHEMA, {}
    row = {"images": [None, url], "texts": ["before", None], "metadata": None, "general_metadata": None}
    if layout == "bytes":
        schema = schema.set(0, pa.field("images", pa.list_(pa.binary())))
        row["images"] = [None, data]
    elif layout == "struct":
        schema = schema.set(0, pa.field("images", STRUCT))
        row["images"] = [None, {"bytes": data, "path": url}]
    else:
        kind = pa.list_(pa.binary()) if layout == "column of bytes" else STRUCT
        schema = schema.append(pa.field("pixels", kind))
        row["pixels"] = [None, data if layout == "column of bytes" else {"bytes": data, "path": None}]
        options = {"bytes_column": "pixels"}
    make.parquet("x.parquet", pa.Table.from_pylist([row], schema))
    (record,), bad = walk(open_reader(make.root, **options))
    assert bad == []
    assert record.body.segments == (TextSegment("before"), ImageSegment("1"))
    assert record.images[0].load() == data
    assert record.extra == ({} if layout == "bytes" else {"images": {"1": {"url": url}}})


def test_embedded_images_of_one_path_that_differ_are_several(make, sample, walk):
    one, two, *_ = sample.urls().values()
    images = [{"bytes": data, "path": "image.jpg"} for data in (one, two, one)]
    table = pa.table({"images": pa.array([images], STRUCT), "texts": pa.array([[None] * 3], pa.list_(pa.string()))})
    make.parquet("x.parquet", table)
    (record,), bad = walk(open_reader(make.root))
    assert bad == []
    assert record.body.segments == (ImageSegment("0"), ImageSegment("1"), ImageSegment("0"))
    assert [image.load() for image in record.images] == [one, two]


MARK = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"


def test_a_mark_begins_another_document(make, sample, walk):
    names = list(sample.mmc4_images())[:2]
    make.files("images", sample.mmc4_images())
    about = [name and {"src": name} for name in (None, names[0], None, names[1], None, names[0])]
    row = {
        "images": [None, names[0], None, names[1], None, names[0]],
        "texts": [f"{MARK}\n\nOne.", None, f"\n\nEnd.\n\n{MARK}\n\n{MARK}\n\nTwo. ", None, MARK, None],
        "metadata": json.dumps(about),
        "general_metadata": '{"url": "u"}',
    }
    only_marks = {**row, "images": [None], "texts": [f"{MARK}{MARK}"], "metadata": None}
    make.parquet("x.parquet", pa.Table.from_pylist([row, only_marks], SCHEMA))
    (first, second, third, empty), bad = walk(open_reader(make.root))
    assert bad == []
    assert [record.id for record in (first, second, third, empty)] == [
        "x.parquet:1",
        "x.parquet:1#1",
        "x.parquet:1#2",
        "x.parquet:2",
    ]
    assert first.body.segments == (TextSegment("One."), ImageSegment("1"), TextSegment("End."))
    assert second.body.segments == (TextSegment("Two."), ImageSegment("3"))
    assert (third.body.segments, empty.body.segments) == ((ImageSegment("1"),), ())
    assert [[image.name for image in record.images] for record in (first, second, third)] == [["1"], ["3"], ["1"]]
    assert [record.extra["images"] for record in (first, second)] == [
        {"1": {"url": names[0], "src": names[0]}},
        {"3": {"url": names[1], "src": names[1]}},
    ]
    assert third.extra["general_metadata"] == {"url": "u"}


def test_images_by_path_and_images_that_are_not_there(make, sample, walk):
    (name, data), *_ = sample.mmc4_images().items()
    table = pa.table({"images": [[name, "http://example.org/none.jpg", "../x.jpg"]], "texts": [[None] * 3]})
    make.parquet("x.parquet", table)
    make.files("images", {name: data})
    (record,), bad = walk(open_reader(make.root))
    assert bad == []
    assert record.images[0].load() == data
    for image, code in zip(record.images[1:], ("file_missing", "bad_path"), strict=True):
        with pytest.raises(UserError) as caught:
            image.load()
        assert caught.value.code == code


def test_splits_and_further_columns(make, walk):
    for name in ("train", "validation", "test", "part"):
        table = pa.table({"images": [[None]], "texts": [[name]], "score": [float("nan")], "rank": [3]})
        make.parquet(f"{name}-00000-of-00001.parquet", table)
    records, bad = walk(open_reader(make.root))
    assert bad == []
    found = {record.body.segments[0].text: record.split for record in records}
    assert found == {"train": "train", "validation": "val", "test": "test", "part": "train"}
    assert records[0].extra == {"score": None, "rank": 3}


def test_splits_by_folder(make, walk):
    for name in ("train", "validation"):
        make.arrow(f"{name}/data-00000-of-00001.arrow", pa.table({"images": [[None]], "texts": [[name]]}))
    records, bad = walk(open_reader(make.root, format="obelics"))
    assert bad == []
    assert [(record.id, record.split) for record in records] == [
        ("train/data-00000-of-00001.arrow:1", "train"),
        ("validation/data-00000-of-00001.arrow:1", "val"),
    ]


def test_many_rows_keep_their_numbers(make, walk):
    count = 200
    table = pa.table({"images": [[None]] * count, "texts": [[str(number)] for number in range(count)]})
    make.parquet("x.parquet", table, group=70)
    records, _ = walk(open_reader(make.root))
    assert [(record.id, record.body.segments[0].text) for record in records] == [
        (f"x.parquet:{number + 1}", str(number)) for number in range(count)
    ]


def test_rows_of_the_cauldron_are_images_and_then_the_turns(make, walk):
    turns = [
        {"user": "What is it?", "assistant": "A fish.", "source": "x"},
        {"user": "Which?", "assistant": "Red."},
    ]
    make.parquet("train-0.parquet", {"images": [[{"bytes": b"pixels", "path": None}]], "texts": [turns]})
    (record,), bad = walk(open_reader(make.root))
    assert bad == []
    texts = [TextSegment(text) for text in ("What is it?", "A fish.", "Which?", "Red.")]
    assert record.body.segments == (ImageSegment("0"), *texts)
    assert record.images[0].load() == b"pixels"


def test_json_lines_of_the_same_lists(make, walk, sample):
    given = rows(sample)
    make.jsonl("docs.jsonl", given)
    reader = open_reader(make.root, images=make.img2dataset("images", sample.urls()))
    (first, _), bad = walk(reader)
    assert (reader.format, bad, first.id) == ("obelics", [], "docs.jsonl:1")
    assert first.body.segments[1:2] == (ImageSegment("1"),)
    assert first.images[0].load() == sample.urls()[given[0]["images"][1]]
