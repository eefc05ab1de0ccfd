"""Pairs in folders, as img2dataset writes them by default."""

import json
import os

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.formats import open_reader
from lcl_core.data.formats.imagefolder import ImageFolderReader
from lcl_core.data.records import BadItem, CaptionedImage


@pytest.mark.parametrize("extension", ["jpg", "webp"])
@pytest.mark.parametrize("place", ["cc3m", "downloads/cc3m"])
def test_the_folders_of_img2dataset(make, sample, walk, extension, place):
    urls = sample.urls()
    make.img2dataset_files(place, urls, extension)
    corpus = make.root / place.partition("/")[0]
    reader = open_reader(corpus)
    assert reader.format == "pair_folders"
    assert not ImageFolderReader.sniff(corpus)
    records, bad = walk(reader)
    folder = place.partition("/")[2]
    shards = [f"{folder}/{name}".lstrip("/") for name in ("00000", "00001")]
    assert [record.id for record in records] == [f"{shards[n // 2]}/{n:09d}" for n in range(4)]
    assert [record.images[0].load() for record in records] == list(urls.values())
    for number, (record, url) in enumerate(zip(records, urls, strict=True)):
        assert record.body == CaptionedImage(f"{number:09d}.{extension}", (f"caption of {number}",))
        assert (record.extra["url"], record.extra["width"], record.split) == (url, 72, "train")
        assert "caption" not in record.extra
    gone = [
        BadItem(f"0000{n}.parquet", 1, "not downloaded", f"00000000{4 + n} https://example.org/gone") for n in (0, 1)
    ]
    assert bad == gone


def test_the_same_as_from_tars(make, sample, walk):
    make.img2dataset("tars", sample.urls())
    make.img2dataset_files("folders", sample.urls())
    from_tars, _ = walk(open_reader(make.root / "tars"))
    from_folders, _ = walk(open_reader(make.root / "folders"))
    assert [(record.body, record.extra) for record in from_folders] == [(r.body, r.extra) for r in from_tars]


def test_pairs_of_ones_own(make, walk):
    """Without tables; names with dots, some images without a text, splits above."""
    make.files(
        "train/red", {"a.b.PNG": b"1", "a.b.txt": b"dotted", "b.jpg": b"2", "b.json": b'{"caption": ["x", "y"]}'}
    )
    make.files("train/red", {"c.jpg": b"3", ".hidden.jpg": b"", "d.txt": b"alone", "deep/e.jpg": b"4"})
    reader = open_reader(make.root)
    records, bad = walk(reader)
    assert reader.format == "pair_folders"
    assert [(record.id, record.body.captions) for record in records] == [
        ("train/red/a.b", ("dotted",)),
        ("train/red/b", ("x", "y")),
        ("train/red/c", ()),
    ]
    assert [(item.file, item.reason) for item in bad] == [
        ("train/red", "no image"),
        ("train/red", "not an ordinary file"),
    ]


def test_class_folders_stay_class_folders(make):
    files = {f"ant/{n}.jpg": b"x" for n in range(5)} | {
        "ant/0.txt": b"a remark",
        "ant/README.txt": b"",
        "bee/0.jpg": b"",
    }
    assert open_reader(make.files(".", files)).format == "imagefolder"


def test_a_folder_whose_downloads_all_failed(make, sample, walk):
    make.img2dataset_files("x", sample.urls())
    for path in (make.root / "x/00000").iterdir():
        path.unlink()
    records, bad = walk(open_reader(make.root / "x"))
    assert [record.id for record in records] == ["00001/000000002", "00001/000000003"]
    reasons = ["not downloaded", "not in the folder", "not in the folder", "not downloaded"]
    assert [item.reason for item in bad] == reasons


def test_links_that_lead_out(make, walk):
    outside = make.files("outside", {"0.jpg": b"x", "0.txt": b"secret"})
    make.files("corpus/a", {"1.jpg": b"x", "1.txt": b"one"})
    (make.root / "corpus/a/2.jpg").symlink_to(outside / "0.jpg")
    (make.root / "corpus/a/2.txt").symlink_to(outside / "0.txt")
    (make.root / "corpus/b").symlink_to(outside)
    records, bad = walk(open_reader(make.root / "corpus", "pair_folders"))
    assert [(record.id, record.body.captions) for record in records] == [("a/1", ("one",)), ("a/2", ())]
    assert [(item.file, item.reason) for item in bad] == [("a", "bad txt"), ("b", "unsafe link")]
    with pytest.raises(UserError) as caught:
        records[1].images[0].load()
    assert caught.value.code == "bad_path"


def test_a_file_is_no_folder_of_pairs(make):
    with pytest.raises(UserError) as caught:
        list(open_reader(make.file("x.json", json.dumps({})), "pair_folders").records())
    assert caught.value.code == "corpus_unreadable"


def test_a_file_that_is_added_changes_the_stamp_of_its_folder(make, sample):
    reader = open_reader(make.img2dataset_files("x", sample.urls()))
    os.utime(make.root / "x/00001", ns=(0, 0))  # before any time that the file system may give
    before = {section.key: section.stamp for section in reader.sections()}
    make.file("x/00001/000000009.jpg", b"x")
    make.file("x/00000.parquet", b"")
    after = {section.key: section.stamp for section in reader.sections()}
    assert {key for key in before if before[key] != after[key]} == {"00000", "00001"}
