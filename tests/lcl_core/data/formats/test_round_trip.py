"""Every format of pages and captioned images, converted and read again: the same documents and the same images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcl_core.data import open_corpus
from lcl_core.data.formats import open_reader
from lcl_core.data.records import CaptionedImage, TextSegment
from lcl_core.data.shards.convert import convert

Write = Callable[[Any, list[bytes]], None]


def web(make: Any, images: list[bytes]) -> None:
    make.files("img", {f"{n}.webp": data for n, data in enumerate(images)})
    figures = "".join(f"<p>Text {n}.</p><img src='img/{n}.webp' alt='Alt {n}'>" for n in range(4))
    make.file("page.html", f"<h1>Title</h1>{figures}<p>The end.</p>")
    make.file("other.html", "<p>No image here.</p>")


def markdown(make: Any, images: list[bytes]) -> None:
    make.files("img", {f"{n}.webp": data for n, data in enumerate(images)})
    make.file("page.md", "# Title\n\n" + "".join(f"Text {n}.\n\n![Alt {n}](img/{n}.webp)\n\n" for n in range(4)))


def coco(make: Any, images: list[bytes]) -> None:
    make.files("val2017", {f"{n}.jpg": data for n, data in enumerate(images)})
    entries = [{"id": n, "file_name": f"{n}.jpg"} for n in range(4)]
    captions = [{"image_id": n % 4, "id": n, "caption": f"Caption {n}."} for n in range(20)]
    make.file("annotations/captions_val2017.json", json.dumps({"images": entries, "annotations": captions}))


def nocaps(make: Any, images: list[bytes]) -> None:
    make.files("val", {f"{n}.jpg": data for n, data in enumerate(images)})
    domains = ("in-domain", "near-domain", "out-domain", "in-domain")
    entries = [{"id": n, "file_name": f"{n}.jpg", "domain": domain} for n, domain in enumerate(domains)]
    captions = [{"image_id": n % 4, "id": n, "caption": f"Caption {n}."} for n in range(40)]
    make.file("nocaps_val_4500_captions.json", json.dumps({"images": entries, "annotations": captions}))


def karpathy(make: Any, images: list[bytes]) -> None:
    make.files("flickr30k-images", {f"{n}.jpg": data for n, data in enumerate(images)})
    splits = ("train", "train", "val", "test")
    entries = [
        {"filename": f"{n}.jpg", "imgid": n, "split": split, "sentences": [{"raw": f"A {n}."}, {"raw": f"B {n}."}]}
        for n, split in enumerate(splits)
    ]
    make.file("dataset_flickr30k.json", json.dumps({"images": entries, "dataset": "flickr30k"}))


def imagefolder(make: Any, images: list[bytes]) -> None:
    make.file("LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca\nn02012849 crane\n")
    for number, data in enumerate(images):
        wnid = ("n01440764", "n02012849")[number % 2]
        make.file(f"{('train', 'val')[number // 2]}/{wnid}/{wnid}_{number}.JPEG", data)


def table(make: Any, images: list[bytes]) -> None:
    make.files("images", {f"{n}.webp": data for n, data in enumerate(images)})
    rows = "".join(f'{n}.webp,"Caption, {n}",kind {n % 2},{("train", "val")[n % 2]}\n' for n in range(4))
    make.file("t.csv", f"image,caption,label,split\n{rows}")


WRITERS: dict[str, Write] = {
    "web": web,
    "markdown": markdown,
    "coco": coco,
    "nocaps": nocaps,
    "karpathy": karpathy,
    "imagefolder": imagefolder,
    "table": table,
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_converted_reads_the_same(make: Any, sample: Any, walk: Any, tmp_path: Path, name: str) -> None:
    images = [sample.image(pair["image"]) for pair in sample.pairs]
    WRITERS[name](make, images)
    reader = open_reader(make.root)
    records, bad = walk(reader)
    assert (reader.format, bad) == (name, [])
    report = convert(reader.records(), tmp_path / "target")
    assert (report.records, report.pictures, report.quarantined) == (len(records), 4, {})
    corpus = open_corpus(tmp_path / "target")
    sample_images = []
    if isinstance(records[0].body, CaptionedImage):
        assert len(corpus.pairs()) == len(records)
        for record, pair in zip(records, corpus.pairs(), strict=True):
            facts = (pair.captions, dict(pair.labels), pair.split, pair.source)
            assert facts == (record.body.captions, dict(record.body.labels), record.split, record.source)
            sample_images.append((record.images[0].load(), corpus.image_bytes(pair.image)))
    else:
        for record, document in zip(records, corpus.documents, strict=True):
            assert document["id"] == record.id
            loaded = {image.name: image.load() for image in record.images}
            for segment, stored in zip(record.body.segments, document["segments"], strict=True):
                if isinstance(segment, TextSegment):
                    assert stored == {"text": segment.text}
                else:
                    sample_images.append((loaded[segment.name], corpus.image_bytes(stored["image"])))
    assert len(sample_images) == 4
    assert all(original == stored for original, stored in sample_images)
    assert sorted(original for original, _ in sample_images) == sorted(images)
