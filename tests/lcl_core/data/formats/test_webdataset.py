"""WebDataset tars as img2dataset writes them."""

from __future__ import annotations

import json
from typing import Any

from lcl_core.data.formats import open_reader
from lcl_core.data.records import BadItem, CaptionedImage


def test_shards_with_side_files(make: Any, sample: Any, walk: Any) -> None:
    urls = sample.urls()
    make.img2dataset("laion", urls)
    make.img2dataset("later", urls)
    for kind in ("tar", "parquet"):
        make.file(f"laion/00001.{kind}", (make.root / f"later/00000.{kind}").read_bytes())
    reader = open_reader(make.root / "laion")
    records, bad = walk(reader)
    assert reader.format == "webdataset"
    keys = [f"{number:09d}" for number in range(len(urls))]
    assert [record.id for record in records] == [f"{shard}/{key}" for shard in ("00000", "00001") for key in keys]
    for record, (url, data) in zip(records, urls.items(), strict=False):
        number = int(record.id.partition("/")[2])
        assert record.body == CaptionedImage(f"{number:09d}.jpg", (f"caption of {number}",))
        assert record.images[0].load() == data
        assert (record.extra["url"], record.extra["width"], record.split) == (url, 72, "train")
        assert "caption" not in record.extra
    gone = f"{len(urls):09d} https://example.org/gone HTTP Error 404: Not Found"
    assert bad == [BadItem(f"0000{n}.parquet", len(urls) + 1, "not downloaded", gone) for n in (0, 1)]


def test_fields_from_the_side_file_where_there_is_no_json(make: Any, sample: Any, walk: Any) -> None:
    make.img2dataset("x", sample.urls(), json_too=False)
    records, _ = walk(open_reader(make.root / "x"))
    assert [record.extra["url"] for record in records] == list(sample.urls())
    assert records[1].body.captions == ("caption of 1",)
    assert "error_message" not in records[1].extra


def test_a_caption_that_only_the_side_file_has(make: Any, walk: Any) -> None:
    make.tar("x.tar", [("0.jpg", b"x"), ("0.json", b'{"n": 1}'), ("1.jpg", b"x"), ("1.json", b"{")])
    make.parquet("x.parquet", {"key": ["0", "1"], "caption": ["zero", "one"], "m": [2, 3]})
    (first, second), bad = walk(open_reader(make.root))
    assert [item.reason for item in bad] == ["bad json"]
    assert (first.body.captions, first.extra) == (("zero",), {"n": 1})
    assert (second.body.captions, second.extra) == (("one",), {"key": "1", "m": 3})


def test_extensions_and_captions(make: Any, sample: Any, walk: Any) -> None:
    images = list(sample.urls().values())
    make.tar(
        "x.tar",
        [
            ("./0.PNG", images[0]),
            ("./0.txt", b"\xef\xbb\xbfone"),
            ("./0.json", json.dumps({"caption": "another", "n": 1}).encode()),
            ("a.b/1.webp", images[1]),
            ("a.b/1.cls", b"7\n"),
            ("a.b/1.seg.png", b"mask"),
            ("2.jpeg", images[2]),
            ("2.json", b'{"caption": "same"}'),
            ("2.txt", b"same"),
            ("3.jpg", images[3]),
            ("3.txt", b" \n"),
        ],
    )
    records, bad = walk(open_reader(make.root / "x.tar"))
    assert bad == []
    assert [record.body for record in records] == [
        CaptionedImage("0.PNG", ("one", "another")),
        CaptionedImage("1.webp", (), {"class": "7"}),
        CaptionedImage("2.jpeg", ("same",)),
        CaptionedImage("3.jpg", ()),
    ]
    assert [record.id for record in records] == ["x/0", "x/a.b/1", "x/2", "x/3"]
    assert [record.extra for record in records] == [{"n": 1}, {"other_members": ["seg.png"]}, {}, {}]
    assert [record.images[0].load() for record in records] == images


def test_another_caption_field(make: Any, walk: Any) -> None:
    make.tar("x.tar", [("0.jpg", b"x"), ("0.json", b'{"TEXT": "t", "caption": "c"}')])
    (record,), _ = walk(open_reader(make.root, caption_field="TEXT"))
    assert (record.body.captions, record.extra) == (("t",), {"caption": "c"})


def test_shards_one_folder_down(make: Any, walk: Any) -> None:
    make.tar("shards/00000000.tar", [("0.jpg", b"x")])
    make.file("metadata/0.parquet", b"?")
    (record,), bad = walk(open_reader(make.root))
    assert (record.id, bad) == ("shards/00000000/0", [])


def test_splits_by_the_names_of_tars_and_folders(make: Any, walk: Any) -> None:
    """CC3M has its splits in one folder, CLIP_benchmark a folder for each; folders above the corpus do not count."""
    for name in ("cc3m-train-0000", "cc3m-validation-0000", "cc3m-0001"):
        make.tar(f"test/cc3m/{name}.tar", [("0.jpg", b"x")])
    for name in ("test/0", "train/0"):
        make.tar(f"bench/{name}.tar", [("0.jpg", b"x")])
    records, bad = walk(open_reader(make.root / "test" / "cc3m"))
    more, worse = walk(open_reader(make.root / "bench"))
    assert bad == worse == []
    assert {record.id: record.split for record in (*records, *more)} == {
        "cc3m-0001/0": "train",
        "cc3m-train-0000/0": "train",
        "cc3m-validation-0000/0": "val",
        "test/0/0": "test",
        "train/0/0": "train",
    }
