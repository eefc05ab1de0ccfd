"""MMC4 as it is distributed: shards in every packing, images in every layout."""

import json
import tracemalloc
from pathlib import Path

import pytest

from lcl_core.data.formats import open_reader
from lcl_core.data.formats.mmc4 import MMC4Reader
from lcl_core.data.records import ImageMatch, MatchedDocument

SHARDS = (
    "docs_shard_{}_v2.jsonl",
    "docs_shard_{}_v2.jsonl.zip",
    "docs_shard_{}_v2.jsonl.gz",
    "docs_no_face_shard_{}_v2.jsonl.zip",
    "docs_no_face_shard_{}_v3.jsonl",
    "docs_shard_{}_v3.jsonl.zip",
    "docs_shard_{}_v2-core-ff.jsonl.zip",
)


@pytest.mark.parametrize("pattern", SHARDS)
def test_shards_of_every_naming_in_the_order_of_their_numbers(make, sample, walk, pattern):
    rows = sample.mmc4()
    for number, row in zip((10, 9, 100), rows, strict=True):
        make.jsonl(pattern.format(number), [row, row])
    make.files("images", sample.mmc4_images())
    reader = open_reader(make.root)
    records, bad = walk(reader)
    assert (reader.format, bad) == ("mmc4", [])
    stem = pattern.removesuffix(".zip").removesuffix(".gz")
    expected = [(stem.format(number), line) for number in (9, 10, 100) for line in (1, 2)]
    assert [record.id for record in records] == [f"{shard}:{line}" for shard, line in expected]
    for record, row in zip(records[::2], (rows[1], rows[0], rows[2]), strict=True):
        assert record.body == MatchedDocument(
            tuple(row["text_list"]),
            tuple(
                ImageMatch(image["image_name"], image["matched_text_index"], image["matched_sim"])
                for image in row["image_info"]
            ),
        )


def test_what_a_document_keeps(make, sample, walk):
    row = sample.mmc4()[0]
    make.jsonl("docs_shard_0_v2.jsonl.zip", [row])
    (record,), _ = walk(open_reader(make.root))
    assert record.extra["url"] == row["url"]
    assert record.extra["could_have_url_duplicate"] == 0
    assert record.extra["image_info"] == [
        {"raw_url": image["raw_url"], "face_detections": None} for image in row["image_info"]
    ]
    assert "similarity_matrix" not in record.extra
    assert (record.split, record.source) == ("train", "")


def lay_folder(make, images, rows):
    return make.files("pictures", images)


def lay_tars(make, images, rows):
    names = sorted(images)
    make.tar("pictures/a.tar", [(f"./{name}", images[name]) for name in names[::2]])
    return make.tar("pictures/b.tar", [(f"deep/in/{name}", images[name]) for name in names[1::2]]).parent


def lay_one_tar(make, images, rows):
    return make.tar("pictures.tar", sorted(images.items()))


def by_url(images, rows):
    return {image["raw_url"]: images[image["image_name"]] for row in rows for image in row["image_info"]}


def lay_img2dataset(make, images, rows):
    return make.img2dataset("pictures", by_url(images, rows))


def lay_img2dataset_side_only(make, images, rows):
    return make.img2dataset("pictures", by_url(images, rows), json_too=False)


def lay_img2dataset_files(make, images, rows):
    found = by_url(images, rows)
    place = make.img2dataset("pictures", found, json_too=False)
    (place / "00000.tar").unlink()
    return make.files("pictures/00000", {f"{n:09d}.jpg": data for n, data in enumerate(found.values())}).parent


def lay_img2dataset_files_one_folder_down(make, images, rows):
    lay_img2dataset_files(make, images, rows)
    (make.root / "pictures").rename(make.root / "downloads")
    make.file("pictures/README.md", "?")
    (make.root / "downloads").rename(make.root / "pictures/part")
    return Path(make.root / "pictures")


def lay_shard_folders(make, images, rows):
    """As MMC4's download script writes them: ``OUTPUT/INDEX_OF_SHARD/NAME``."""
    names = sorted(images)
    make.files("pictures/0", {name: images[name] for name in names[::2]})
    return make.files("pictures/1", {name: images[name] for name in names[1::2]}).parent


@pytest.mark.parametrize(
    "lay",
    [
        lay_folder,
        lay_shard_folders,
        lay_img2dataset_files_one_folder_down,
        lay_tars,
        lay_one_tar,
        lay_img2dataset,
        lay_img2dataset_side_only,
        lay_img2dataset_files,
    ],
)
def test_images_in_every_layout(make, sample, walk, lay):
    rows, images = sample.mmc4(), sample.mmc4_images()
    shard = make.jsonl("docs_shard_7_v2.jsonl.gz", rows)
    place = lay(make, images, rows)
    records, bad = walk(open_reader(shard, images=place))
    assert bad == []
    loaded = {image.name: image.load() for record in records for image in record.images}
    assert loaded == images


@pytest.mark.parametrize("place", ["images/0", "mmc4_images", "mmc4_images/7", "docs_shard_7_v2_images"])
def test_images_where_the_download_script_writes_them(make, sample, walk, place):
    make.jsonl("docs_shard_7_v2.jsonl", sample.mmc4())
    make.files(place, sample.mmc4_images())
    records, bad = walk(open_reader(make.root))
    assert bad == []
    assert {image.name: image.load() for record in records for image in record.images} == sample.mmc4_images()


def test_one_image_for_two_sentences_is_one_image(make, walk):
    image = {"image_name": "a.jpg", "matched_sim": 0.5}
    row = {"text_list": ["x", "y"], "image_info": [{**image, "matched_text_index": n} for n in (1, 0)]}
    make.jsonl("docs_shard_0_v2.jsonl", [row])
    (record,), _ = walk(open_reader(make.root))
    assert record.body.matches == (ImageMatch("a.jpg", 1, 0.5), ImageMatch("a.jpg", 0, 0.5))
    assert [sample_image.name for sample_image in record.images] == ["a.jpg"]
    assert "image_info" not in record.extra


def test_a_zip_of_several_files_keeps_ids_apart(make, sample, walk):
    rows = sample.mmc4()
    parts = {"b.jsonl": make.lines(rows[:1]), "a.jsonl": make.lines(rows[1:]), "README": b"?"}
    make.zip("docs_shard_3_v2.jsonl.zip", {**parts, "__MACOSX/a.jsonl": b"\0"})
    records, bad = walk(open_reader(make.root))
    assert bad == []
    assert [record.id for record in records] == [
        f"docs_shard_3_v2.jsonl/{place}" for place in ("a.jsonl:1", "a.jsonl:2", "b.jsonl:1")
    ]


def test_a_shard_is_streamed_and_its_matrices_are_not_kept(make):
    """7 MB of lines, one in memory at a time."""
    row = {"text_list": ["x"], "image_info": [], "similarity_matrix": [[0.123456789] * 10_000]}
    make.file("docs_shard_0_v2.jsonl", (json.dumps(row) + "\n") * 50)
    tracemalloc.start()
    try:
        records = list(open_reader(make.root).records())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(records) == 50
    assert all(record.extra == {} for record in records)
    assert peak < 3 << 20


def test_any_file_when_the_format_is_named(make, sample, walk):
    path = make.jsonl("mine.jsonl", sample.mmc4())
    assert not MMC4Reader.sniff(path)
    records, _ = walk(open_reader(path, format="mmc4"))
    assert [record.id for record in records] == [f"mine.jsonl:{line}" for line in (1, 2, 3)]
