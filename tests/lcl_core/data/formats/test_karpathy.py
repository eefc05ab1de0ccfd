"""Karpathy's splits as they are distributed."""

import json

import pytest

from lcl_core.data.formats import open_reader
from lcl_core.data.records import CaptionedImage

SPLITS = ("restval", "train", "val", "test")


def entry(number, split, *captions, **more):
    """The fields that both files have."""
    sentences = [
        {"tokens": caption.lower().split(), "raw": caption, "imgid": number, "sentid": 5 * number + place}
        for place, caption in enumerate(captions)
    ]
    facts = {"sentids": [sentence["sentid"] for sentence in sentences], "filename": f"{number}.jpg", "imgid": number}
    return {**facts, "split": split, "sentences": sentences, **more}


def coco(number, split, *captions):
    return entry(number, split, *captions, filepath="val2014", cocoid=1000 + number)


@pytest.fixture
def sample_images(sample):
    return {f"{n}.jpg": sample.image(pair["image"]) for n, pair in enumerate(sample.pairs)}


def test_coco(make, walk, sample_images):
    images = [coco(n, split, f"Image {n}. ", "An ant .") for n, split in enumerate(SPLITS)]
    make.file("dataset_coco.json", json.dumps({"images": images, "dataset": "coco"}))
    make.files("val2014", sample_images)
    reader = open_reader(make.root)
    records, bad = walk(reader)
    assert (reader.format, bad) == ("karpathy", [])
    assert [record.split for record in records] == list(SPLITS)
    assert {record.source for record in records} == {"coco"}
    assert records[2].body == CaptionedImage("val2014/2.jpg", ("Image 2.", "An ant ."))
    assert records[2].extra == {"sentids": [10, 11], "imgid": 2, "cocoid": 1002, "split": "val"}
    assert [record.images[0].load() for record in records] == list(sample_images.values())
    merged, _ = walk(open_reader(make.root, merge_restval=True))
    assert [record.split for record in merged] == ["train", "train", "val", "test"]
    assert merged[0].extra["split"] == "restval"


@pytest.mark.parametrize("folder", ["", "images/", "flickr30k-images/", "flickr30k_images/"])
def test_flickr(make, walk, sample_images, folder):
    images = [entry(n, split, *(f"Caption {n} {k}." for k in range(5))) for n, split in enumerate(SPLITS[1:])]
    file = make.file("dataset_flickr30k.json", json.dumps({"images": images, "dataset": "flickr30k"}))
    for name, data in sample_images.items():
        make.file(f"{folder}{name}", data)
    records, bad = walk(open_reader(file))
    assert bad == []
    assert [record.source for record in records] == ["flickr30k"] * 3
    assert all(len(record.body.captions) == 5 for record in records)
    assert [record.images[0].load() for record in records] == list(sample_images.values())[:3]


ENTRIES = {
    "no object": ("7.jpg", "bad image entry"),
    "a file name that climbs": ({**coco(7, "val"), "filename": "../x.jpg"}, "bad image entry"),
    "a folder that climbs": ({**coco(7, "val"), "filepath": "../.."}, "bad image entry"),
    "no split": ({"filename": "7.jpg", "sentences": []}, "bad image entry"),
    "another split": (coco(7, "dev"), "bad image entry"),
    "no sentences": ({"filename": "7.jpg", "split": "val"}, "bad image entry"),
    "sentences that are text": ({**coco(7, "val"), "sentences": ["An ant."]}, "bad image entry"),
    "a sentence without text": ({**coco(7, "val"), "sentences": [{"tokens": ["a"]}]}, "bad image entry"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_malformed_entry(make, walk, name):
    value, reason = ENTRIES[name]
    images = ",\n".join(json.dumps(image) for image in (coco(1, "train", "x"), value, coco(2, "test", "y")))
    make.file("dataset_coco.json", f'{{"images": [\n{images}], "dataset": "coco"}}')
    records, (bad,) = walk(open_reader(make.root))
    assert [record.id for record in records] == ["dataset_coco:1", "dataset_coco:3"]
    assert (bad.file, bad.line, bad.reason) == ("dataset_coco.json", 0, reason)


def test_empty_captions_are_reported(make, walk):
    make.file("dataset_coco.json", json.dumps({"images": [coco(1, "train", "x", " ", "")]}))
    (record,), (bad,) = walk(open_reader(make.root))
    assert record.body.captions == ("x",)
    assert bad.reason == "empty caption"
