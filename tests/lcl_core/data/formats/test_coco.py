"""COCO captions as they are distributed."""

import json

import pytest

from lcl_core.data.formats import open_reader
from lcl_core.data.records import CaptionedImage

INFO = {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017}


def entry(number, name, **more):
    """The fields that COCO writes about an image."""
    url = f"http://images.cocodataset.org/val2017/{name}"
    facts = {"license": 4, "coco_url": url, "height": 72, "width": 72, "date_captured": "2013-11-14 17:02:52"}
    return {"id": number, "file_name": name, **facts, "flickr_url": "http://farm7.staticflickr.com/x.jpg", **more}


def annotation(image, number, caption):
    return {"image_id": image, "id": number, "caption": caption}


@pytest.fixture
def coco(make, sample):
    """ROOT/annotations and ROOT/val2017, ROOT/train2014 with real images; gives them by name."""
    images = [sample.image(pair["image"]) for pair in sample.pairs]
    names = [f"{number:012d}.jpg" for number in (397133, 37777)]
    val = {
        "info": INFO,
        "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution"}],
        "images": [entry(397133, names[0]), entry(37777, names[1])],
        "annotations": [
            annotation(37777, 1, "A small bird. "),
            annotation(397133, 2, "An ant."),
            annotation(37777, 3, "It flies."),
        ],
    }
    make.file("annotations/captions_val2017.json", json.dumps(val))
    train = {"annotations": [annotation(9, 4, "A bug")], "images": [entry(9, "COCO_train2014_000000000009.jpg")]}
    make.file("annotations/captions_train2014.json", json.dumps(train, indent=1))
    make.file("annotations/instances_val2017.json", "{}")
    make.files("val2017", dict(zip(names, images, strict=False)))
    make.file("train2014/COCO_train2014_000000000009.jpg", images[2])
    return images


def test_both_years_with_every_caption(coco, make, walk):
    reader = open_reader(make.root)
    (train, first, second), bad = walk(reader)
    assert (reader.format, bad) == ("coco", [])
    assert train.body == CaptionedImage("COCO_train2014_000000000009.jpg", ("A bug",))
    assert first.body == CaptionedImage("000000397133.jpg", ("An ant.",))
    assert second.body == CaptionedImage("000000037777.jpg", ("A small bird.", "It flies."))
    assert [record.id for record in (train, first, second)] == [
        "annotations/captions_train2014:9",
        "annotations/captions_val2017:397133",
        "annotations/captions_val2017:37777",
    ]
    assert [record.split for record in (train, first, second)] == ["train", "val", "val"]
    assert [record.images[0].load() for record in (first, second, train)] == coco[:3]
    assert first.extra == {key: value for key, value in entry(397133, "x").items() if key != "file_name"} | {
        "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg"
    }


@pytest.mark.parametrize("below", ["", "val2017/", "images/", "images/val2017/", "val/"])
def test_one_file_and_images_in_any_usual_folder(make, sample, walk, below):
    data = sample.image(sample.pairs[0]["image"])
    make.file(f"{below}7.jpg", data)
    file = make.file("annotations/captions_val2017.json", json.dumps({"images": [entry(7, "7.jpg")]}))
    (record,), _ = walk(open_reader(file))
    assert record.images[0].load() == data
    (record,), _ = walk(open_reader(make.root / "annotations", images=make.root))
    assert record.images[0].load() == data


def test_images_in_a_tar(make, sample, walk):
    data = sample.image(sample.pairs[0]["image"])
    tar = make.tar("val2017.tar", [("val2017/7.jpg", data)])
    make.file("captions_val2017.json", json.dumps({"images": [entry(7, "7.jpg")]}))
    (record,), bad = walk(open_reader(make.root, images=tar))
    assert (record.images[0].load(), bad) == (data, [])


def test_test_images_have_no_captions(make, walk):
    make.file("image_info_test2017.json", json.dumps({"images": [entry(7, "7.jpg")], "categories": []}))
    (record,), bad = walk(open_reader(make.root))
    assert (record.body, record.split, bad) == (CaptionedImage("7.jpg"), "test", [])


def test_the_split_may_be_given(make, walk):
    make.file("captions_val2017.json", json.dumps({"images": [entry(7, "7.jpg")]}))
    (record,), _ = walk(open_reader(make.root, split="held"))
    assert record.split == "held"


GOOD_IMAGE, GOOD_CAPTION = entry(1, "1.jpg"), annotation(1, 1, "Good.")
# an element between good ones -> reason
ELEMENTS = {
    "an image that is no object": ("images", "7.jpg", "bad image entry"),
    "no file name": ("images", {"id": 7}, "bad image entry"),
    "a file name that climbs": ("images", entry(7, "../../etc/passwd"), "bad image entry"),
    "no id": ("images", {"file_name": "7.jpg"}, "bad image entry"),
    "an id that is a list": ("images", entry(7, "7.jpg", id=[7]), "bad image entry"),
    "an id that occurs twice": ("images", entry(1, "7.jpg"), "bad image entry"),
    "an annotation that is a list": ("annotations", [1], "bad annotation"),
    "no caption": ("annotations", {"image_id": 1, "id": 2}, "bad annotation"),
    "a caption that is a number": ("annotations", {"image_id": 1, "caption": 7}, "bad annotation"),
    "an empty caption": ("annotations", annotation(1, 2, " \n"), "bad annotation"),
    "a caption of no image": ("annotations", annotation(99, 2, "x"), "caption without image"),
}


@pytest.mark.parametrize("name", ELEMENTS)
def test_a_malformed_element(make, walk, name):
    array, element, reason = ELEMENTS[name]
    content = {"images": [GOOD_IMAGE, entry(2, "2.jpg")], "annotations": [GOOD_CAPTION, annotation(1, 3, "Too.")]}
    content[array].insert(1, element)
    make.file("captions_val2017.json", json.dumps(content))
    records, (bad,) = walk(open_reader(make.root))
    assert [record.body for record in records] == [CaptionedImage("1.jpg", ("Good.", "Too.")), CaptionedImage("2.jpg")]
    assert (bad.file, bad.reason) == ("captions_val2017.json", reason)
    assert f"{array}[1]" in bad.detail or reason == "caption without image"


HEAD = '{"images": [' + json.dumps(GOOD_IMAGE)
# text of a file -> how many records, reasons
FILES = {
    "an empty file": (b"", 0, ["bad json"]),
    "an array": (b"[]", 0, ["bad json"]),
    "no arrays": (b"{}", 0, ["no images"]),
    "images an object": (b'{"images": {}}', 0, ["bad json"]),
    "annotations a string": (HEAD.encode() + b'], "annotations": "x"}', 0, ["bad json"]),
    "cut before the end": (HEAD.encode() + b"]", 0, ["bad json"]),
    "a byte that is no UTF-8": (HEAD.encode() + b', {"id": 2, "file_name": "\xff.jpg"}]}', 0, ["bad json"]),
    "a mark of UTF-8": (b"\xef\xbb\xbf" + HEAD.encode() + b"]}", 1, []),
    "NaN and half a character": (HEAD.encode() + b', {"id": 2, "file_name": "\\ud800.jpg", "x": NaN}]}', 2, []),
    "nested deeply": (HEAD.encode() + b"," + b"[" * 300 + b"]" * 300 + b"]}", 0, ["bad json"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_file(make, walk, name):
    data, count, reasons = FILES[name]
    make.file("captions_a_val.json", data)
    make.file("captions_b_val.json", json.dumps({"images": [GOOD_IMAGE]}))
    records, bad = walk(open_reader(make.root))
    assert [record.id.partition(":")[0] for record in records] == ["captions_a_val"] * count + ["captions_b_val"]
    assert [(item.file, item.reason) for item in bad] == [("captions_a_val.json", reason) for reason in reasons]
