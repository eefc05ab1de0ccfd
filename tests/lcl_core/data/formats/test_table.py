"""CSV, TSV and JSON lines of images with captions or labels."""

import gzip
import json

import pyarrow as pa
import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.formats import open_reader, parquet
from lcl_core.data.records import CaptionedImage

CSV = 'file_name,caption,label,note\na.webp,"An ant, small",insect,x\nb.webp,A bird.,bird,\n'
TSV = CSV.replace('"An ant, small"', "An ant; small").replace(",", "\t").replace(";", ",")
JSONL = (
    '{"file_name": "a.webp", "caption": "An ant, small", "label": "insect", "note": "x"}\n'
    '{"file_name": "b.webp", "caption": ["A bird."], "label": "bird", "note": ""}\n'
)
TABLES = {
    "t.csv": CSV,
    "t.tsv": TSV,
    "t.jsonl": JSONL,
    "t.ndjson": JSONL,
    "windows.csv": CSV.replace("\n", "\r\n"),
    "marked.csv": "\ufeff" + CSV,
    "spaced.csv": CSV.replace(",", ", ").replace("ant,  small", "ant, small"),
    "semicolons.csv": 'file_name;caption;label;note\na.webp;"An ant, small";insect;x\nb.webp;A bird.;bird;\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_every_kind_of_table(make, walk, sample_images, name):
    make.file(name, TABLES[name])
    reader = open_reader(make.root / name)
    records, bad = walk(reader)
    assert (reader.format, bad) == ("table", [])
    assert [record.body for record in records] == [
        CaptionedImage("a.webp", ("An ant, small",), {"label": "insect"}),
        CaptionedImage("b.webp", ("A bird.",), {"label": "bird"}),
    ]
    first = 1 if name.endswith(("jsonl", "ndjson")) else 2
    assert [record.id for record in records] == [f"{name}:{first}", f"{name}:{first + 1}"]
    assert records[0].extra == {"note": "x"}
    assert [record.images[0].load() for record in records] == sample_images[:2]


def test_packed_tables(make, walk, sample_images):
    make.file("a.csv.gz", gzip.compress(CSV.encode()))
    make.file("b.jsonl.gz", gzip.compress(JSONL.encode()))
    records, bad = walk(open_reader(make.root))
    assert (len(records), bad) == (4, [])


def test_flickrs_own_table(make, walk, sample_images):
    """Bars between columns, blanks around them, quotes as they are, five rows an image."""
    rows = [f'a.webp| {n}| "Caption" {n} , here .' for n in range(5)] + ["b.webp| 0| Another ."]
    make.file("results.csv", "\n".join(["image_name| comment_number| comment", *rows]))
    records, bad = walk(open_reader(make.root))
    assert bad == []
    assert [record.body for record in records] == [
        CaptionedImage("a.webp", tuple(f'"Caption" {n} , here .' for n in range(5))),
        CaptionedImage("b.webp", ("Another .",)),
    ]
    assert [record.id for record in records] == ["results.csv:2", "results.csv:7"]
    apart, _ = walk(open_reader(make.root, group=False))
    assert len(apart) == 6


def test_flickrs_table_of_lists(make, walk, sample_images):
    """All captions of an image in one cell, a JSON list; a text that only begins like one stays a text."""
    raw = json.dumps(["A man , here .", 'A "dog" runs .']).replace('"', '""')
    rows = [f'"{raw}","[0, 1]",test,a.webp,0', "[sic] an ant,[2],train,b.webp,1", "[3],[3],train,c.webp,2"]
    make.file("flickr_annotations_30k.csv", "\n".join(["raw,sentids,split,filename,img_id", *rows]))
    records, bad = walk(open_reader(make.root))
    assert bad == []
    assert [(record.body.captions, record.split) for record in records] == [
        (("A man , here .", 'A "dog" runs .'), "test"),
        (("[sic] an ant",), "train"),
        (("[3]",), "train"),
    ]


def test_rows_of_different_labels_stay_apart(make, walk, sample_images):
    make.file("t.csv", "image,caption,label\na.webp,one,x\na.webp,two,y\na.webp,three,y\n")
    records, _ = walk(open_reader(make.root))
    assert [record.body.captions for record in records] == [("one",), ("two", "three")]


def test_columns_may_be_named(make, walk, sample_images):
    make.file("t.csv", "bild,worte,mehr,art,teil,woher,image\na.webp,eins,zwei,tier,held,zoo,other\n")
    options = {"image": "bild", "captions": ["worte", "mehr"], "labels": ["art"], "split": "teil", "source": "woher"}
    (record,), bad = walk(open_reader(make.root, "table", **options))
    assert bad == []
    assert record.body == CaptionedImage("a.webp", ("eins", "zwei"), {"art": "tier"})
    assert (record.split, record.source, dict(record.extra)) == ("held", "zoo", {"image": "other"})


def test_a_table_without_header(make, walk, sample):
    """Conceptual Captions: caption, tab, address."""
    urls = sample.urls()
    shards = make.img2dataset("shards", urls)
    make.file("Train_GCC-training.tsv", "".join(f"caption {n} .\t{url}\n" for n, url in enumerate(urls)))
    options = {"header": False, "image": "1", "captions": ["0"], "images": shards}
    records, bad = walk(open_reader(make.root / "Train_GCC-training.tsv", "table", **options))
    assert bad == []
    assert [record.body for record in records] == [
        CaptionedImage(url, (f"caption {n} .",)) for n, url in enumerate(urls)
    ]
    assert [record.images[0].load() for record in records] == list(urls.values())
    assert {record.split for record in records} == {"train"}


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_images_in_the_rows_of_hugging_face(make, walk, sample_images, kind):
    """An image with several captions, one row each; images of one path that differ; images that lie beside."""
    one, two, three = sample_images
    cells = [(one, "x.jpg"), (one, "x.jpg"), (two, "x.jpg"), (three, None), (None, "c.webp"), (None, None)]
    table = pa.table(
        {
            "filename": [f"{number}.jpg" for number in range(6)],
            "img": pa.array([{"bytes": data, "path": path} for data, path in cells], IMAGE),
            "caption": [["An ant."], ["Ants."], ["A bird."], ["A cat."], ["A dog.", "Dogs."], ["none"]],
            "label": pa.array([1, 1, 2, None, 3, 4], pa.int8()),
            "split": [None, None, "test", None, None, None],
            "thumbnail": [b"x"] * 6,
        }
    )
    path = getattr(make, kind)(f"data/validation-00000-of-00001.{kind}", table)
    reader = open_reader(make.root)
    records, (bad,) = walk(reader)
    assert reader.format == "table"
    name = f"data/{path.name}"
    assert (bad.file, bad.line, bad.reason, bad.detail) == (name, 6, "bad row", "there is no image in 'img'")
    assert [record.id for record in records] == [f"{name}:{row}" for row in (1, 3, 4, 5)]
    assert [record.body for record in records] == [
        CaptionedImage("x.jpg", ("An ant.", "Ants."), {"label": "1"}),
        CaptionedImage("x.jpg", ("A bird.",), {"label": "2"}),
        CaptionedImage("4", ("A cat.",)),
        CaptionedImage("c.webp", ("A dog.", "Dogs."), {"label": "3"}),
    ]
    assert [record.images[0].load() for record in records] == [one, two, three, three]
    assert [record.split for record in records] == ["val", "test", "val", "val"]
    assert records[0].extra == {"filename": "0.jpg"}


def test_parquet_of_img2dataset(make, walk, sample_images):
    rows = [
        {"key": "000000000", "url": "https://x.org/0", "status": "success", "webp": sample_images[0]},
        {"key": "000000001", "url": "https://x.org/1", "status": "failed_to_download", "error_message": "HTTP 404"},
        {"key": "000000002", "url": "https://x.org/2", "status": "success", "webp": sample_images[2]},
    ]
    table = pa.Table.from_pylist([{"error_message": None, **row, "caption": "x", "txt": "x"} for row in rows])
    make.parquet("00000.parquet", table)
    records, (bad,) = walk(open_reader(make.root))
    assert [record.body.captions for record in records] == [("x",), ("x",)]
    assert [record.images[0].load() for record in records] == [sample_images[0], sample_images[2]]
    assert (bad.line, bad.reason, bad.detail) == (2, "not downloaded", "000000001 https://x.org/1 HTTP 404")
    assert records[0].extra["url"] == "https://x.org/0"


@pytest.mark.parametrize("names", [("URL", "TEXT"), ("url", "caption"), ("image_path", "text")])
def test_parquet_of_addresses(make, sample, walk, names):
    """LAION's and DataComp's metadata, with the images that img2dataset fetched beside it or elsewhere."""
    where, caption = names
    urls = sample.urls()
    values = list(urls) if "url" in where.lower() else [f"{number:09d}.jpg" for number in range(len(urls))]
    make.img2dataset("meta/images", urls)
    make.parquet("meta/rows/part-0.parquet", {where: values, caption: [f"caption {n}" for n in range(len(urls))]})
    for path, images in (("meta", None), ("meta/rows", make.root / "meta/images")):
        records, bad = walk(open_reader(make.root / path, "table", images=images))
        assert bad == []
        assert [record.body.captions for record in records] == [(f"caption {n}",) for n in range(len(urls))]
        assert [record.images[0].load() for record in records] == list(urls.values())


def test_parquet_beside_tables_of_text_is_not_read_too(make, walk, sample_images):
    make.file("t.csv", CSV)
    make.parquet("t.parquet", {"image": ["a.webp"], "caption": ["x"]})
    records, bad = walk(open_reader(make.root))
    assert ([record.id for record in records], bad) == (["t.csv:2", "t.csv:3"], [])
    assert [record.id for record in walk(open_reader(make.root / "t.parquet"))[0]] == ["t.parquet:1"]


def test_a_value_that_python_cannot_have_is_a_bad_row(make, walk, sample_images):
    days = pa.array([2**31 - 1, 1], pa.int32()).view(pa.date32())
    make.parquet("x.parquet", pa.table({"image": ["a.webp", "b.webp"], "caption": ["x", "y"], "day": days}))
    (record,), (bad,) = walk(open_reader(make.root))
    assert (record.id, record.extra, bad.line, bad.reason) == ("x.parquet:2", {"day": "1970-01-02"}, 1, "bad row")


def test_cells_of_parquet_are_bounded(make, walk, monkeypatch, sample_images):
    make.parquet("x.parquet", {"image": ["a.webp", "b.webp"], "captions": [["one", "two", "three"], ["one"]]})
    monkeypatch.setattr(parquet, "MAX_ENTRIES", 2)
    (record,), (bad,) = walk(open_reader(make.root))
    assert (record.id, bad.line, bad.reason) == ("x.parquet:2", 1, "bad row")


def test_labels_of_every_kind(make, walk, sample_images):
    rows = [
        {"image": "a.webp", "label": 7, "class": True, "category": 0.5, "species": None},
        {"image": "b.webp", "labels": {"order": "ants", "family": 3}, "label": "x"},
    ]
    make.jsonl("t.jsonl", rows)
    options = {"labels": ["label", "class", "category", "species", "labels"]}
    with pytest.raises(UserError, match="genus"):
        list(open_reader(make.root, labels=[*options["labels"], "genus"]).records())
    records, bad = walk(open_reader(make.root, **options))
    assert bad == []
    assert dict(records[1].body.labels) == {"label": "x", "order": "ants", "family": "3"}
    records, bad = walk(open_reader(make.root))
    assert bad == []
    assert [dict(record.body.labels) for record in records] == [
        {"label": "7", "class": "True", "category": "0.5"},
        {"label": "x", "order": "ants", "family": "3"},
    ]


def test_splits_by_column_name_and_folder(make, walk, sample_images):
    make.file("one/x.csv", "image,label,split\na.webp,x,val\nb.webp,y,\n")
    make.file("two/val.csv", "image,label\na.webp,x\n")
    make.file("three/captions_test.csv", "image,label\na.webp,x\n")
    for split in ("train", "validation"):
        make.file(f"four/{split}/metadata.jsonl", '{"file_name": "a.webp", "text": "x"}')
        make.file(f"four/{split}/a.webp", sample_images[0] if split == "train" else sample_images[1])
    found = {name: walk(open_reader(make.root / name)) for name in ("one", "two", "three", "four")}
    assert all(not bad for _, bad in found.values())
    splits = {name: [record.split for record in records] for name, (records, _) in found.items()}
    assert splits == {"one": ["val", "train"], "two": ["val"], "three": ["test"], "four": ["train", "val"]}
    assert [record.images[0].load() for record in found["four"][0]] == sample_images[:2]


SPLIT_ROWS = [
    {"image": "a.webp", "caption": "x"},
    {"image": "a.webp", "caption": "y", "split": "val"},
    {"image": "a.webp", "caption": "z", "split": "test"},
]


def test_rows_of_json_lines_may_lack_the_split(make, walk, sample_images):
    make.jsonl("train.jsonl", SPLIT_ROWS)
    records, bad = walk(open_reader(make.root))
    assert bad == []
    found = [(record.split, record.body.captions, record.extra) for record in records[-3:]]
    assert found == [("train", ("x",), {}), ("val", ("y",), {}), ("test", ("z",), {})]


def test_images_beside_the_table_or_elsewhere(make, walk, sample_images):
    make.file("x/t.csv", "image,label\npic.webp,x\n")
    make.file("x/images/pic.webp", sample_images[0])
    make.file("y/deep/pic.webp", sample_images[1])
    make.tar("z.tar", [("deep/pic.webp", sample_images[2])])
    table = make.root / "x" / "t.csv"
    assert walk(open_reader(table))[0][0].images[0].load() == sample_images[0]
    elsewhere = open_reader(table, images=make.root / "y" / "deep")
    assert walk(elsewhere)[0][0].images[0].load() == sample_images[1]
    assert walk(open_reader(table, images=make.root / "z.tar"))[0][0].images[0].load() == sample_images[2]


def test_quoted_fields_may_hold_lines(make, walk, sample_images):
    make.file("t.csv", 'image,caption\na.webp,"one\ntwo ""three"""\nb.webp,four\n')
    records, bad = walk(open_reader(make.root))
    assert bad == []
    assert [record.body.captions for record in records] == [('one\ntwo "three"',), ("four",)]
    assert [record.id for record in records] == ["t.csv:2", "t.csv:4"]


def test_an_anonymous_user_among_tables_is_reported(make, walk, sample_images):
    make.file("a.csv", "image,caption\na.webp,x\n")
    make.file("b.csv", "day,rain\n1,2\n")
    (record,), (bad,) = walk(open_reader(make.root))
    assert (record.id, bad.file, bad.reason) == ("a.csv:2", "b.csv", "bad header")


@pytest.mark.parametrize(
    ("text", "options", "field"),
    [
        ("day,rain\n1,2\n", {}, "image"),
        ("image,rain\na.webp,2\n", {}, "captions"),
        ("image,caption\na.webp,2\n", {"image": "picture"}, "image"),
        ("image,caption\na.webp,2\n", {"captions": ["caption", "words"]}, "captions"),
        ("image,caption\na.webp,2\n", {"labels": ["kind"]}, "labels"),
        ("image,caption\na.webp,2\n", {"split": "part"}, "split"),
        ("a.webp,2\n", {"header": False}, "image"),
    ],
)
def test_a_column_that_is_not_there_is_named(make, text, options, field):
    make.file("t.csv", text)
    with pytest.raises(UserError) as caught:
        list(open_reader(make.root, "table", **options).records())
    assert (caught.value.code, caught.value.field) == ("bad_option", field)
    assert len(caught.value.message) < 2000


# a line between good ones of "image,caption,label" -> reason
ROWS = {
    "too few fields": (b"x.webp,a caption", "ragged row"),
    "too many fields": (b"x.webp,a caption,b,c", "ragged row"),
    "one field": (b"x.webp", "ragged row"),
    "no image": (b",a caption,b", "bad row"),
    "neither caption nor label": (b"x.webp, ,", "bad row"),
    "an image that climbs": (b"../x.webp,a caption,b", "bad row"),
    "an image that climbs with backslashes": (b"..\\x.webp,a caption,b", "bad row"),
    "an absolute image": (b"/etc/passwd,a caption,b", "bad row"),
    "an image of a drive": (b"x//y.webp,a caption,b", "bad row"),
    "a huge image name": (b"a" * 5000 + b",a caption,b", "bad row"),
    "a NUL": (b"x.webp,a \0caption,b", "bad row"),
    "not UTF-8": (b"x.webp,a \xffcaption,b", "bad encoding"),
    "text after a quote": (b'x.webp,"a" caption,b', "bad row"),
    "a huge field": (b"x.webp," + b"a" * 200_000 + b",b", "bad row"),
    "a huge line": (b"a" * ((16 << 20) + 2), "line too long"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_malformed_row(make, walk, sample_images, name):
    line, reason = ROWS[name]
    make.file("t.csv", b"image,caption,label\na.webp,one,x\n" + line + b"\n\n,,\nb.webp,two,x\n")
    records, (bad,) = walk(open_reader(make.root))
    assert [record.id for record in records] == ["t.csv:2", "t.csv:6"]
    assert (bad.file, bad.line, bad.reason) == ("t.csv", 3, reason)
    assert 0 < len(bad.detail) < 400


# a line between good ones of JSON
OBJECTS = {
    "no JSON": (b"image,caption", "bad line"),
    "a list": (b'["a.webp", "x"]', "bad line"),
    "cut short": (b'{"image": "x.webp", "cap', "bad line"),
    "not UTF-8": (b'{"image": "x.webp", "caption": "\xff"}', "bad line"),
    "nested without end": (b"[" * 100_000, "bad line"),
    "no image": (b'{"caption": "x"}', "bad row"),
    "an image that is a number": (b'{"image": 7, "caption": "x"}', "bad row"),
    "an image that is null": (b'{"image": null, "caption": "x"}', "bad row"),
    "an image with a NUL": (b'{"image": "a\\u0000", "caption": "x"}', "bad row"),
    "a caption that is a number": (b'{"image": "x.webp", "caption": 7}', "bad row"),
    "a caption that is an object": (b'{"image": "x.webp", "caption": {"en": "x"}}', "bad row"),
    "captions with a number": (b'{"image": "x.webp", "caption": ["x", 7]}', "bad row"),
    "a label that is a list": (b'{"image": "x.webp", "caption": "x", "label": ["a", "b"]}', "bad row"),
    "a split that is a number": (b'{"image": "x.webp", "caption": "x", "split": 1}', "bad row"),
    "nothing said": (b'{"image": "x.webp", "caption": "", "label": null}', "bad row"),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_a_malformed_object(make, walk, sample_images, name):
    line, reason = OBJECTS[name]
    good = b'{"image": "a.webp", "caption": "x", "label": "y", "split": "val"}\n'
    make.file("t.jsonl", good + line + b"\n" + good.replace(b"a.webp", b"b.webp"))
    records, (bad,) = walk(open_reader(make.root, "table"))
    assert [record.id for record in records] == ["t.jsonl:1", "t.jsonl:3"]
    assert (bad.line, bad.reason) == (2, reason)


FILES = {
    "empty": (b"", ["no rows"]),
    "blank": (b"\n\n \n", ["no rows"]),
    "a header alone": (b"image,caption\n", ["no rows"]),
    "a header that is not UTF-8": (b"image,c\xff\na.webp,x\n", ["bad encoding", "bad header", "no rows"]),
    "a header with NULs": (b"image,\0\na.webp,x\n", ["bad row", "bad header", "no rows"]),
    "a header with a huge field": (b"a" * 200_000 + b",b\na.webp,x\n", ["bad row", "bad header", "no rows"]),
    "an open quote in the header": (b'image,"caption\na.webp,x\n', ["bad row", "bad header", "no rows"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_table(make, walk, sample_images, name):
    data, reasons = FILES[name]
    make.file("a.csv", data)
    make.file("b.csv", "image,caption\na.webp,x\n")
    (record,), bad = walk(open_reader(make.root, "table"))
    assert record.id == "b.csv:2"
    assert [(item.file, item.reason) for item in bad] == [("a.csv", reason) for reason in reasons]


def test_an_open_quote_costs_a_bounded_part_of_the_table(make, walk):
    rows = [f"{n}.webp,caption number {n}" for n in range(8000)]
    make.file("t.csv", "\n".join(["image,caption", rows[0], 'x.webp,"open', *rows[1:]]))
    records, (bad,) = walk(open_reader(make.root))
    assert (bad.line, bad.reason) == (3, "bad row")
    assert len(records) > 2000
    assert records[-1].id == "t.csv:8002"


def test_json_lines_are_kept_as_they_are(make, walk, sample_images):
    row = {"image": "a.webp", "caption": "x", "size": [1, 2], "more": {"a": None}, "score": 0.5}
    make.file("t.jsonl", json.dumps(row))
    (record,), _ = walk(open_reader(make.root))
    assert record.extra == {"size": [1, 2], "more": {"a": None}, "score": 0.5}


def test_a_json_array_of_objects(make, walk, sample_images):
    """The form of BLIP and LAVIS: in one line, a row a caption or a row an image."""
    train = [{"image": "a.webp", "caption": text, "image_id": "coco_1"} for text in ("An ant.", "Ants.")]
    train += [{"image": "b.webp", "caption": "A bird.", "image_id": "coco_2"}, ["b.webp", "x"], {"caption": "x"}]
    make.file("coco_karpathy_train.json", json.dumps(train))
    make.file("coco_karpathy_val.json", "\ufeff " + json.dumps([{"image": "c.webp", "caption": ["A cat.", "Cats."]}]))
    make.file("info.json", '{"images": []}')
    make.file("torn.json", '[{"image": "a.webp", "caption": "x"}, {"image"')
    reader = open_reader(make.root)
    records, bad = walk(reader)
    assert reader.format == "table"
    assert [(record.id, record.body.captions, record.split) for record in records] == [
        ("coco_karpathy_train.json:1", ("An ant.", "Ants."), "train"),
        ("coco_karpathy_train.json:3", ("A bird.",), "train"),
        ("coco_karpathy_val.json:1", ("A cat.", "Cats."), "val"),
    ]
    assert records[0].extra == {"image_id": "coco_1"}
    assert [record.images[0].load() for record in records[:3]] == sample_images
    assert [(item.file, item.line, item.reason) for item in bad] == [
        ("coco_karpathy_train.json", 4, "bad row"),
        ("coco_karpathy_train.json", 5, "bad row"),
        ("info.json", 0, "bad json"),
        ("info.json", 0, "no rows"),
        ("torn.json", 1, "bad json"),
        ("torn.json", 0, "no rows"),
    ]
