"""Malformed tars, their members and side files: each has its defined result, and the rest is read."""

import gzip
import os
import tarfile

import pyarrow as pa
import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.formats import open_reader, webdataset
from lcl_core.data.formats.image_lookup import ImageFinder

IMAGE = b"P" * 700


def entry(name, kind=tarfile.REGTYPE, link="", size=0):
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, size
    return made


def header(name, kind, size):
    """A bare header block that states any size; the library would refuse to write some of these."""
    return entry(name, kind, size=size).tobuf(tarfile.GNU_FORMAT)


def block(data):
    return data + bytes(-len(data) % 512)


def whole(make):
    """Three samples, 2,048 bytes each, and the end mark."""
    members = [(f"{n}.{kind}", data) for n in range(3) for kind, data in (("jpg", IMAGE), ("txt", b"t"))]
    return make.tar("../good.tar", members).read_bytes()


END = bytes(1024)
# what a tar holds → (records that are read, reasons)
TARS = {
    "text": (lambda good: b"no tar at all" * 100, 0, ["damaged tar"]),
    "gzip": (lambda good: gzip.compress(good), 0, ["damaged tar"]),
    "cut in an image": (lambda good: good[:1000], 0, ["damaged tar"]),
    "cut in the second sample": (lambda good: good[:3300], 1, ["damaged tar"]),
    "cut between members": (lambda good: good[:2560], 1, ["damaged tar"]),
    "a header with a byte changed": (lambda good: good[:2560] + b"X" + good[2561:], 1, ["damaged tar"]),
    "two tars in one file": (lambda good: good + good, 3, ["damaged tar"]),
    "a member larger than the file": (lambda good: header("0.jpg", b"0", 1 << 40) + END, 0, ["damaged tar"]),
}


@pytest.mark.parametrize("name", TARS)
def test_a_malformed_tar(make, walk, name):
    spoil, count, reasons = TARS[name]
    good = whole(make)
    make.file("a.tar", spoil(good))
    make.file("b.tar", good)
    records, bad = walk(open_reader(make.root, format="webdataset"))
    assert [record.id for record in records if record.id.startswith("b/")] == ["b/0", "b/1", "b/2"]
    assert len(records) == 3 + count
    assert [(item.file, item.reason) for item in bad] == [("a.tar", reason) for reason in reasons]
    assert all(item.detail for item in bad)
    finder = ImageFinder(make.root)
    assert [item.reason for item in finder.problems] == reasons
    assert finder.find("2.jpg").load() == IMAGE


KINDS = {
    "symbolic link": (tarfile.SYMTYPE, "/etc/passwd"),
    "pipe": (tarfile.FIFOTYPE, ""),
}


@pytest.mark.parametrize("name", KINDS)
def test_members_that_are_no_files(make, walk, name):
    kind, link = KINDS[name]
    make.tar("x.tar", [(entry("0.jpg", kind, link), b""), ("0.txt", b"t"), ("1.jpg", IMAGE)])
    records, bad = walk(open_reader(make.root))
    assert [record.id for record in records] == ["x/1"]
    assert [item.reason for item in bad] == ["not an ordinary file", "no image"]
    with pytest.raises(UserError) as caught:
        ImageFinder(make.root).find("0.jpg").load()
    assert caught.value.code == "file_missing"


DEEP = b'{"a":' * 100 + b"1" + b"}" * 100
SAMPLES = {
    "no image": ([("0.txt", b"t"), ("0.json", b"{}")], [], ["no image"]),
    "two images": ([("0.jpg", IMAGE), ("0.png", b"x")], ["x/0"], ["second image"]),
    "a member twice": ([("0.jpg", IMAGE), ("0.jpg", b"x")], ["x/0"], ["repeated member"]),
    "a sample twice": ([("0.jpg", IMAGE), ("1.jpg", IMAGE), ("0.jpg", b"x")], ["x/0", "x/1"], ["repeated sample"]),
    "a caption that is not UTF-8": ([("0.jpg", IMAGE), ("0.txt", b"\xff\xfe")], ["x/0"], ["bad txt"]),
    "json that is none": ([("0.jpg", IMAGE), ("0.json", b"{")], ["x/0"], ["bad json"]),
    "json that is a list": ([("0.jpg", IMAGE), ("0.json", b"[]")], ["x/0"], ["bad json"]),
    "a caption that is a number": ([("0.jpg", IMAGE), ("0.json", b'{"caption": 3}')], ["x/0"], ["bad json"]),
    "names that climb": ([("../../0.jpg", IMAGE)], ["x/../../0"], []),
    "an absolute name": ([("/etc/0.jpg", IMAGE)], ["x//etc/0"], []),
    "a name of stray bytes": ([("\udcff\n.jpg", IMAGE)], ["x/\ufffd\ufffd"], []),
    "many members of one key": (
        [("0.jpg", IMAGE), *[(f"0.{number}", b"") for number in range(70)]],
        ["x/0"],
        ["repeated member"] * 7,
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_malformed_samples(make, walk, name):
    members, ids, reasons = SAMPLES[name]
    make.tar("x.tar", members)
    records, bad = walk(open_reader(make.root, format="webdataset"))
    assert [record.id for record in records] == ids
    assert [item.reason for item in bad] == reasons
    assert all(image.load() == IMAGE for record in records for image in record.images)
    assert all("/" not in image.name and image.name.isprintable() for r in records for image in r.images)


def rows(*more):
    return pa.Table.from_pylist([{"key": "0", "url": "u0", "caption": "side", "status": None}, *more])


SIDES = {
    "no Parquet": (b"PAR1" + b"x" * 100 + b"PAR1", "damaged parquet", 0),
    "no column key": (pa.table({"id": ["0"]}), "side file not used", 0),
    "a row without key": (rows({"key": None}), "bad side row", 2),
    "a key twice": (rows({"key": "0", "url": "other"}), "bad side row", 2),
    "a sample that is not there": (rows({"key": "7"}), "not in the tar", 2),
    "a failure": (rows({"key": "7", "status": "failed"}), "not downloaded", 2),
}


@pytest.mark.parametrize("name", SIDES)
def test_a_malformed_side_file(make, walk, name):
    data, reason, line = SIDES[name]
    make.tar("x.tar", [("0.jpg", IMAGE)])
    if isinstance(data, bytes):
        make.file("x.parquet", data)
    else:
        make.parquet("x.parquet", data)
    records, (bad,) = walk(open_reader(make.root, format="webdataset"))
    assert [record.id for record in records] == ["x/0"]
    assert (bad.file, bad.line, bad.reason) == ("x.parquet", line, reason)
    assert records[0].body.captions == (("side",) if line else ())


def test_a_side_file_is_bounded(make, walk, monkeypatch):
    monkeypatch.setattr(webdataset, "MAX_SIDE_ROWS", 3)
    make.tar("x.tar", [("0.jpg", IMAGE)])
    make.parquet("x.parquet", rows(*[{"key": str(number)} for number in range(1, 5)]))
    records, bad = walk(open_reader(make.root))
    assert [(item.line, item.reason) for item in bad] == [
        (4, "rest of side file not used"),
        (2, "not in the tar"),
        (3, "not in the tar"),
    ]
    assert len(records) == 1


def test_tars_that_are_no_files(make, walk):
    outside = make.tar("../outside.tar", [("0.jpg", IMAGE)])
    make.tar("a.tar", [("0.jpg", IMAGE)])
    (make.root / "b.tar").symlink_to(outside)
    (make.root / "c.tar").symlink_to("c.tar")
    os.mkfifo(make.root / "d.tar")
    make.file("e.tar.gz", gzip.compress(outside.read_bytes()))
    records, bad = walk(open_reader(make.root))
    assert [record.id for record in records] == ["a/0"]
    expected = [
        ("b.tar", "unsafe link"),
        ("c.tar", "unreadable file"),
        ("d.tar", "unreadable file"),
        ("e.tar.gz", "damaged tar"),
    ]
    assert [(item.file, item.reason) for item in bad] == expected
    assert [(item.file, item.reason) for item in ImageFinder(make.root).problems] == expected


def test_problems_of_the_images_are_passed_on(make, walk):
    make.jsonl("docs_shard_0_v2.jsonl", [])
    make.tar("images/b.tar", [(entry("2.jpg", tarfile.SYMTYPE, "x"), b""), (entry("3.jpg", tarfile.FIFOTYPE), b"")])
    _, (bad,) = walk(open_reader(make.root))
    assert (bad.file, bad.reason) == ("b.tar", "not an ordinary file")
    assert bad.detail.startswith("2 entries")
