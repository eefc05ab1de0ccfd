"""Malformed Parquet and Arrow files and rows: each has its defined result, and the rest is read."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.formats import image_lookup, obelics, open_reader, parquet

GOOD = {"images": [None, "u"], "texts": ["good", None]}
STRINGS = pa.list_(pa.string())
PLACES = pa.schema([("images", STRINGS), ("texts", STRINGS), ("metadata", pa.string())])


def good(count=6):
    return pa.Table.from_pylist([GOOD] * count, PLACES)


ROWS = {
    "images null": ({**GOOD, "images": None}, "bad row", False),
    "texts null": ({**GOOD, "texts": None}, "bad row", False),
    "lists of two lengths": ({**GOOD, "texts": ["x"]}, "bad row", False),
    "a place with nothing": ({"images": [None, "u"], "texts": [None, None]}, "bad place", True),
    "a place with both": ({"images": ["v", "u"], "texts": ["x", None]}, "bad place", True),
    "metadata that is no JSON": ({**GOOD, "metadata": "{"}, "bad metadata", True),
    "metadata nested too deep": ({**GOOD, "metadata": "[" * 500 + "]" * 500}, "bad metadata", True),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_malformed_row(make, walk, name, kind):
    row, reason, kept = ROWS[name]
    table = pa.Table.from_pylist([GOOD, row, GOOD], PLACES)
    path = make.parquet("x.parquet", table) if kind == "parquet" else make.arrow("x.arrow", table)
    records, (bad,) = walk(open_reader(make.root))
    assert [int(record.id.rpartition(":")[2]) for record in records] == ([1, 2, 3] if kept else [1, 3])
    assert (bad.file, bad.line, bad.reason) == (path.name, 2, reason)


def test_metadata_of_an_odd_form_does_no_harm(make, walk):
    rows = [{**GOOD, "metadata": text} for text in ("{}", "3", "[]", "[null, 3]", "null", "", '[NaN, {"a": NaN}]')]
    make.parquet("x.parquet", pa.Table.from_pylist(rows, PLACES))
    records, bad = walk(open_reader(make.root))
    assert bad == []
    assert [record.extra["images"]["1"] for record in records] == [{"url": "u"}] * 6 + [{"url": "u", "a": None}]


@pytest.mark.parametrize(
    ("column", "kind", "value"),
    [
        ("images", pa.list_(pa.int64()), [None, 3]),
        ("images", pa.list_(pa.struct([("x", pa.int64())])), [None, {"x": 1}]),
        ("images", pa.list_(pa.struct([("path", pa.string())])), [None, {"path": None}]),
        ("images", STRINGS, [None, ""]),
        ("images", pa.list_(pa.null()), [None, None]),
        ("texts", pa.list_(pa.float64()), [0.5, None]),
        ("texts", pa.list_(pa.binary()), [b"x", None]),
    ],
)
def test_places_of_a_wrong_type(make, walk, column, kind, value):
    schema = PLACES.set(PLACES.get_field_index(column), pa.field(column, kind))
    make.parquet("x.parquet", pa.Table.from_pylist([{**GOOD, column: value}], schema))
    (record,), (bad,) = walk(open_reader(make.root))
    assert (bad.line, bad.reason, len(record.body.segments)) == (1, "bad place", 1)


SPOILT = {
    "no images": pa.table({"texts": [["x"]]}),
    "no lists": pa.table({"images": ["u"], "texts": ["x"]}),
    "texts twice": pa.table([[["u"]], [[None]], [["x"]]], ["images", "texts", "texts"]),
}


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT)
def test_a_file_without_the_columns(make, walk, spoilt):
    make.parquet("a.parquet", good())
    make.parquet("b.parquet", spoilt)
    records, (bad,) = walk(open_reader(make.root))
    assert (len(records), bad.file, bad.line, bad.reason) == (6, "b.parquet", 0, "not in this format")
    assert not obelics.ObelicsReader.sniff(make.root / "b.parquet")


def test_the_column_of_bytes_must_be_there_and_fit(make, walk):
    make.parquet("a.parquet", good(1))
    make.parquet("b.parquet", good(1).append_column("pixels", [[[b"x"]]]))
    records, bad = walk(open_reader(make.root, bytes_column="pixels"))
    assert records == []
    assert [(item.file, item.reason) for item in bad] == [("a.parquet", "not in this format"), ("b.parquet", "bad row")]


def test_text_that_is_not_utf8(make, walk):
    raw = pa.array([[b"\xff\xfe"], [b"good"]], pa.list_(pa.binary())).view(STRINGS)
    make.parquet("x.parquet", pa.table({"images": pa.array([[None], [None]], STRINGS), "texts": raw}))
    (record,), (bad,) = walk(open_reader(make.root))
    assert (record.id, bad.line, bad.reason) == ("x.parquet:2", 1, "bad row")


def spoil(data, start, length):
    return data[:start] + b"\xa5" * length + data[start + length :]


FILES = {
    "an empty parquet": ("parquet", lambda data: b""),
    "text for parquet": ("parquet", lambda data: b"nothing of the kind" * 9),
    "a parquet without its end": ("parquet", lambda data: data[: len(data) // 2]),
    "a parquet's magic alone": ("parquet", lambda data: b"PAR1"),
    "a parquet with a spoilt footer": ("parquet", lambda data: spoil(data, len(data) - 300, 200)),
    "a parquet with a huge footer": ("parquet", lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1"),
    "an encrypted parquet": ("parquet", lambda data: b"PARE" + data[4:-4] + b"PARE"),
    "an empty arrow": ("arrow", lambda data: b""),
    "text for arrow": ("arrow", lambda data: b"nothing of the kind" * 9),
    "half an arrow": ("arrow", lambda data: data[: len(data) // 2]),
    "an arrow with a huge message": ("arrow", lambda data: b"\xff\xff\xff\xff\xff\xff\xff\x7f" + data[8:]),
    "an arrow with a spoilt schema": ("arrow", lambda data: spoil(data, 16, 64)),
    "an arrow file without its end": ("feather", lambda data: data[:-40]),
    "an arrow file of magic alone": ("feather", lambda data: b"ARROW1\0\0ARROW1"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file(make, walk, name):
    kind, damage = FILES[name]
    if kind == "parquet":
        path = make.parquet("b.parquet", good())
    else:
        path = make.arrow(f"b.{kind}", good(), stream=kind == "arrow")
    path.write_bytes(damage(path.read_bytes()))
    make.parquet("a.parquet", good(1))
    make.parquet("c.parquet", good(1))
    records, (bad,) = walk(open_reader(make.root))
    assert {"a.parquet:1", "c.parquet:1"} <= {record.id for record in records}
    assert (bad.file, bad.reason) == (path.name, "damaged parquet" if kind == "parquet" else "damaged arrow")


def test_a_damaged_row_group_leaves_the_others(make, walk):
    table = pa.table({"images": [[None]] * 6, "texts": [[f"text {n} " * 50] for n in range(6)]})
    path = make.parquet("x.parquet", table, group=2)
    about = pq.read_metadata(path).row_group(1).column(1)
    start = about.dictionary_page_offset or about.data_page_offset
    path.write_bytes(spoil(path.read_bytes(), start, about.total_compressed_size))
    records, (bad,) = walk(open_reader(make.root))
    assert [record.id for record in records] == [f"x.parquet:{row}" for row in (1, 2, 5, 6)]
    assert (bad.line, bad.reason) == (3, "damaged parquet")


def test_offsets_that_point_outside(make, walk):
    """The library trusts the offsets of a batch; following these would read memory that is not ours."""
    rows = [{"images": [None] * count, "texts": ["x"] * count} for count in (7919, 211)]
    batches = [pa.RecordBatch.from_pylist(part, PLACES) for part in ([GOOD], rows, [GOOD])]
    path = make.file("x.arrow", b"")
    with pa.ipc.new_stream(str(path), PLACES) as writer:
        for batch in batches:
            writer.write_batch(batch)
    true, wild = (np.array(ends, np.int32).tobytes() for ends in ((0, 7919, 8130), (0, 7919, 10**9)))
    assert path.read_bytes().count(true) == 2
    path.write_bytes(path.read_bytes().replace(true, wild))
    records, (bad,) = walk(open_reader(make.root))
    assert [record.id for record in records] == ["x.arrow:1", "x.arrow:4"]
    assert (bad.line, bad.reason) == (2, "damaged arrow")


def test_row_groups_are_bounded(make, walk, monkeypatch):
    make.parquet("a.parquet", good(4), group=2)
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "MAX_GROUP_BYTES", 3)
        records, bad = walk(open_reader(make.root))
        assert records == []
        assert [(item.line, item.reason) for item in bad] == [(line, "row group too large") for line in (1, 3)]
    assert len(walk(open_reader(make.root))[0]) == 4


def test_embedded_bytes_are_bounded(make, walk, monkeypatch):
    monkeypatch.setattr(image_lookup, "MAX_IMAGE_BYTES", 10)
    make.parquet("x.parquet", pa.table({"images": [[b"x" * 11]], "texts": [[None]]}))
    (record,), _ = walk(open_reader(make.root, format="obelics"))
    with pytest.raises(UserError) as caught:
        record.images[0].load()
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("column", [["x" * (4 << 20)] * 64, [["x" * (4 << 20)]] * 64], ids=["text", "list"])
def test_a_value_that_many_rows_repeat_is_in_memory_once(make, column):
    path = make.root / "rows.parquet"
    make.file("rows.parquet", b"")
    pq.write_table(pa.table({"text": column}), path, dictionary_pagesize_limit=1 << 30)
    assert path.stat().st_size < 1 << 20
    (rows,) = parquet.read_batches(path, path.name)
    assert (rows.batch.num_rows, rows.batch.nbytes < 8 << 20) == (64, True)
