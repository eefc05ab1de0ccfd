"""NoCaps as it is distributed."""

import json

import pytest

from lcl_core.data.formats import open_reader
from lcl_core.data.records import CaptionedImage

DOMAINS = ("in-domain", "near-domain", "out-domain")


def entry(number, domain):
    """The fields that NoCaps writes about an image."""
    name = f"{number:016x}"
    url = f"https://s3.amazonaws.com/nocaps/val/{name}.jpg"
    facts = {"license": 0, "open_images_id": name, "coco_url": url, "height": 1024, "width": 732}
    reported = {} if domain is None else {"domain": domain}
    return {**facts, "date_captured": "2018-11-06 11:04:33", **reported, "id": number, "file_name": f"{name}.jpg"}


def test_domains_are_sources(make, sample, walk):
    images = [entry(number, domain) for number, domain in enumerate(DOMAINS)]
    captions = [{"image_id": n % 3, "id": n, "caption": f"Caption {n}."} for n in range(30)]
    licences = [{"url": "https://creativecommons.org/licenses/by/2.0/", "id": 0, "name": "Attribution License"}]
    content = {"licenses": licences, "info": {"year": 2018}, "images": images, "annotations": captions}
    make.file("nocaps_val_4500_captions.json", json.dumps(content))
    test = {"images": [entry(7, None)], "info": {}}
    make.file("nocaps_test_image_info.json", json.dumps(test))
    data = [sample.image(pair["image"]) for pair in sample.pairs]
    make.files("val", {image["file_name"]: part for image, part in zip(images, data, strict=False)})
    make.file(f"test/{entry(7, None)['file_name']}", data[3])
    reader = open_reader(make.root)
    (held, *records), bad = walk(reader)
    assert (reader.format, bad) == ("nocaps", [])
    assert [(record.split, record.source) for record in records] == [("val", domain) for domain in DOMAINS]
    assert records[1].body == CaptionedImage(images[1]["file_name"], tuple(f"Caption {n}." for n in range(1, 30, 3)))
    assert records[1].extra["open_images_id"] == images[1]["open_images_id"]
    assert (held.split, held.source, held.body) == ("test", "", CaptionedImage(entry(7, None)["file_name"]))
    assert [record.images[0].load() for record in (*records, held)] == data


@pytest.mark.parametrize("domain", ["outer-space", 7, ["in-domain"]])
def test_an_unknown_domain_is_reported(make, walk, domain):
    images = [entry(1, "in-domain"), {**entry(2, None), "domain": domain}]
    make.file("nocaps_val_4500_captions.json", json.dumps({"images": images}, indent=1))
    (record,), (bad,) = walk(open_reader(make.root))
    assert record.source == "in-domain"
    assert bad.reason == "bad image entry"
    assert "domain" in bad.detail
