"""WebDataset tars as img2dataset writes them."""

import json

import pyarrow as pa
import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.formats import open_reader
from lcl_core.data.records import BadItem, CaptionedImage, ImageSegment, TextSegment


def test_shards_with_side_files(make, sample, walk):
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


def test_fields_from_the_side_file_where_there_is_no_json(make, sample, walk):
    make.img2dataset("x", sample.urls(), json_too=False)
    records, _ = walk(open_reader(make.root / "x"))
    assert [record.extra["url"] for record in records] == list(sample.urls())
    assert records[1].body.captions == ("caption of 1",)
    assert "error_message" not in records[1].extra


def test_a_caption_that_only_the_side_file_has(make, walk):
    make.tar("x.tar", [("0.jpg", b"x"), ("0.json", b'{"n": 1}'), ("1.jpg", b"x"), ("1.json", b"{")])
    make.parquet("x.parquet", {"key": ["0", "1"], "caption": ["zero", "one"], "m": [2, 3]})
    (first, second), bad = walk(open_reader(make.root))
    assert [item.reason for item in bad] == ["bad json"]
    assert (first.body.captions, first.extra) == (("zero",), {"n": 1})
    assert (second.body.captions, second.extra) == (("one",), {"key": "1", "m": 3})


def test_extensions_and_captions(make, sample, walk):
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


def test_another_caption_field(make, walk):
    make.tar("x.tar", [("0.jpg", b"x"), ("0.json", b'{"TEXT": "t", "caption": "c"}')])
    (record,), _ = walk(open_reader(make.root, caption_field="TEXT"))
    assert (record.body.captions, record.extra) == (("t",), {"caption": "c"})


def test_shards_one_folder_down(make, walk):
    make.tar("shards/00000000.tar", [("0.jpg", b"x")])
    make.file("metadata/0.parquet", b"?")
    (record,), bad = walk(open_reader(make.root))
    assert (record.id, bad) == ("shards/00000000/0", [])


def test_splits_by_the_names_of_tars_and_folders(make, walk):
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


def test_a_list_of_captions(make, walk):
    fields = [b'{"captions": ["a", "", "b", "a"], "n": 1}', b'{"captions": []}', b'{"captions": null}']
    fields += [b'{"captions": {"en": "a"}}', b'{"captions": [1], "n": 1}', b'{"captions": "one"}']
    make.tar("x.tar", [m for n, data in enumerate(fields) for m in ((f"{n}.jpg", b"x"), (f"{n}.json", data))])
    make.parquet("y.parquet", {"key": ["0"], "captions": [["c", "d"]]})
    make.tar("y.tar", [("0.jpg", b"x")])
    records, bad = walk(open_reader(make.root, caption_field="captions"))
    assert [record.body.captions for record in records] == [("a", "b"), (), (), (), (), ("one",), ("c", "d")]
    assert [record.extra for record in records] == [
        *({"n": 1}, {}, {}, {"captions": {"en": "a"}}, {"captions": [1], "n": 1}, {}, {"key": "0"}),
    ]
    assert [(item.file, item.line, item.reason) for item in bad] == [("x.tar", 4, "bad json"), ("x.tar", 5, "bad json")]
    assert "'captions' must be a string or a list of strings" in bad[0].detail


def test_captions_of_a_side_file_that_are_none(make, walk):
    make.tar("x.tar", [("0.jpg", b"x")])
    make.parquet("x.parquet", {"key": ["0"], "caption": [3]})
    (record,), (bad,) = walk(open_reader(make.root))
    assert (record.body.captions, record.extra, bad.reason) == ((), {"key": "0", "caption": 3}, "bad side row")


RETRIEVAL = [("0.jpg", b"x"), ("0.txt", b"one\r\ntwo\\nlines\n\none\n")]


@pytest.mark.parametrize(
    ("tar", "kind", "corpus"),
    [
        ("test/0.tar", "dataset_type.txt", ""),
        ("test/0.tar", "test/dataset_type.txt", "test"),
        ("test/0.tar", "dataset_type.txt", "test"),
        ("test/0.tar", "dataset_type.txt", "test/0.tar"),
        ("0.tar", "dataset_type.txt", ""),
    ],
)
def test_a_retrieval_set_of_clip_benchmark(make, walk, tar, kind, corpus):
    make.tar(tar, RETRIEVAL)
    make.file("test/nshards.txt", "1\n")
    make.file(kind, "Retrieval\n")
    (record,), bad = walk(open_reader(make.root / corpus))
    assert (record.body.captions, bad) == (("one", "two\nlines"), [])


def test_one_caption_of_several_lines_where_it_is_no_retrieval_set(make, walk):
    make.tar("laion/0.tar", RETRIEVAL)
    make.file("dataset_type.txt", "retrieval")
    (record,), _ = walk(open_reader(make.root / "laion"))
    assert record.body.captions == ("one\r\ntwo\\nlines\n\none\n",), "a file above the corpus is not meant"


def test_classes_of_clip_benchmark(make, walk):
    labels = (b"0", b"1\n", b"2", b"3", b"4", b"a word", "٣".encode(), b"9" * 5000)
    make.tar("test/0.tar", [m for n, label in enumerate(labels) for m in ((f"{n}.webp", b"x"), (f"{n}.cls", label))])
    make.file("classnames.txt", "ant\ncrane\nbee eater\ncrane\n\n")
    records, bad = walk(open_reader(make.root))
    assert [record.body.labels["class"] for record in records] == [
        *("ant", "crane (1)", "bee eater", "crane (3)", "4", "a word", "٣", "9" * 5000),
    ]
    assert [(item.reason, item.line) for item in bad] == [("bad cls", 8)]


def test_a_file_of_classes_that_cannot_be_used(make, walk, tmp_path):
    make.tar("0.tar", [("0.jpg", b"x"), ("0.cls", b"0")])
    (tmp_path / "classnames.txt").write_text("secret\n")
    (make.root / "classnames.txt").symlink_to(tmp_path / "classnames.txt")
    (record,), (bad,) = walk(open_reader(make.root))
    assert record.body.labels == {"class": "0"}
    assert (bad.file, bad.reason) == ("classnames.txt", "side file not used")


@pytest.mark.parametrize("whole", ["folder", "tar"])
def test_a_side_file_may_not_lead_out(make, walk, whole):
    tar = make.tar("x.tar", [("0.jpg", b"x"), ("0.txt", b"zero")])
    (make.root / "x.parquet").symlink_to(make.parquet("../private.parquet", {"key": ["0"], "secret": ["s"]}))
    (record,), bad = walk(open_reader(make.root if whole == "folder" else tar))
    assert record.extra == {}
    assert [(item.file, item.reason) for item in bad] == [("x.parquet", "unsafe link")]


def test_a_date_of_a_side_file_beyond_pythons(make, walk):
    make.tar("x.tar", [("0.jpg", b"x"), ("0.txt", b"zero")])
    make.parquet("x.parquet", pa.table({"key": ["0"], "day": pa.array([2**30], pa.date32())}))
    (record,), (bad,) = walk(open_reader(make.root))
    assert (record.body.captions, record.extra, bad.reason) == (("zero",), {}, "bad row")


def test_an_interleaved_sample_is_a_document(make, walk):
    row = {"images": [None, "https://x.org/a.jpg", None, "b.jpg"], "texts": ["one", None, "two", None], "url": "u"}
    wrong = {"images": ["a"], "texts": ["b"]}
    members = [("7.json", json.dumps(row)), ("7.0.jpg", "a"), ("8.json", json.dumps(wrong)), ("8.0.jpg", "c")]
    make.tar("x.tar", [(name, text.encode()) for name, text in members])
    (record,), (bad,) = walk(open_reader(make.root))
    assert (record.id, record.extra) == ("x/7", {"url": "u"})
    texts = TextSegment("one"), TextSegment("two")
    assert record.body.segments == (texts[0], ImageSegment("0"), texts[1], ImageSegment("1"))
    assert record.images[0].load() == b"a"
    with pytest.raises(UserError, match="not in the files of '7'"):  # it was not downloaded
        record.images[1].load()
    assert (bad.reason, "at place 0" in bad.detail) == ("bad json", True)
