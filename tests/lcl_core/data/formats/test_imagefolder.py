"""Class folders, and those of ImageNet."""

import os

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.formats import open_reader
from lcl_core.data.records import CaptionedImage

MAPPING = "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n"


@pytest.fixture
def sample_images(sample):
    return [sample.image(pair["image"]) for pair in sample.pairs]


def reported(records):
    return [(record.id, record.split, dict(record.body.labels)) for record in records]


def test_class_folders(make, walk, sample_images):
    files = {
        "cat/b.webp": sample_images[0],
        "ant/a.PNG": sample_images[1],
        "cat/sub/a.jpeg": sample_images[2],
        "cat/.x.jpg": b"",
    }
    make.files(".", files)
    reader = open_reader(make.root)
    records, bad = walk(reader)
    assert (reader.format, bad) == ("imagefolder", [])
    assert reported(records) == [
        ("ant/a.PNG", "train", {"class": "ant"}),
        ("cat/b.webp", "train", {"class": "cat"}),
        ("cat/sub/a.jpeg", "train", {"class": "cat"}),
    ]
    assert records[0].body == CaptionedImage("ant/a.PNG", (), {"class": "ant"})
    assert [record.images[0].load() for record in records] == [sample_images[1], sample_images[0], sample_images[2]]


@pytest.mark.parametrize(
    ("folder", "split"), [("valid", "val"), ("Validation", "val"), ("test", "test"), ("dev", "val")]
)
def test_a_folder_for_each_split(make, walk, sample_images, folder, split):
    make.files(
        ".", {f"{folder}/ant/a.webp": sample_images[0], "train/ant/a.webp": sample_images[1], "extra/x.webp": b""}
    )
    records, (bad,) = walk(open_reader(make.root))
    expected = [(f"{folder}/ant/a.webp", split), ("train/ant/a.webp", "train")]
    assert sorted((record.id, record.split) for record in records) == sorted(expected)
    assert (bad.file, bad.reason) == ("extra", "image outside a split")


@pytest.mark.parametrize("mapping", ["LOC_synset_mapping.txt", "synset_words.txt", "synset_mapping.txt"])
def test_imagenet_with_its_synsets(make, walk, sample_images, mapping):
    make.file(mapping, MAPPING)
    for split in ("train", "val"):
        for number, wnid in enumerate(("n01440764", "n02012849", "n03126707", "n99999999")):
            make.file(f"{split}/{wnid}/{wnid}_{number}.JPEG", sample_images[number])
    records, bad = walk(open_reader(make.root, "imagefolder"))
    assert bad == []
    assert [record.split for record in records] == ["train"] * 4 + ["val"] * 4
    assert [dict(record.body.labels) for record in records[:4]] == [
        {"class": "tench, Tinca tinca", "wnid": "n01440764"},
        {"class": "crane (n02012849)", "wnid": "n02012849"},
        {"class": "crane (n03126707)", "wnid": "n03126707"},
        {"class": "n99999999"},
    ]


TENCH, CRANE = {"class": "tench", "wnid": "n01440764"}, {"class": "crane", "wnid": "n03126707"}
LISTED = "n01440764 tench\nn03126707 crane\n"


def test_side_files_may_lie_elsewhere(make, walk, sample_images):
    make.file("a/train/n01440764/1.jpg", sample_images[0])
    elsewhere = make.file("b/names.txt", LISTED)
    (record,), _ = walk(open_reader(make.root / "a", synsets=elsewhere))
    assert dict(record.body.labels) == TENCH
    with pytest.raises(UserError) as caught:
        list(open_reader(make.root / "a", "imagefolder", synsets=make.root / "none").records())
    assert (caught.value.code, caught.value.field) == ("bad_option", "synsets")


MALFORMED_SYNSETS = {
    "words first": b"tench n01440764",
    "too short": b"n0144 tench",
    "twice": b"n01440764 tench",
    "not UTF-8": b"n0144\xff764 tench",
    "NULs": b"\0\0\0",
    "a long line": b"x" * 100_000,
}


@pytest.mark.parametrize("name", MALFORMED_SYNSETS)
def test_a_malformed_line_of_synsets(make, walk, sample_images, name):
    make.file("synset_words.txt", b"n01440764 tench\n" + MALFORMED_SYNSETS[name] + b"\n\nn03126707 crane\n")
    make.file("train/n03126707/a.jpg", sample_images[0])
    (record,), (bad,) = walk(open_reader(make.root, "imagefolder"))
    assert dict(record.body.labels) == CRANE
    assert (bad.file, bad.line, bad.reason) == ("synset_words.txt", 2, "bad synset line")
    assert len(bad.detail) < 300


def test_what_is_no_image_of_a_class(make, walk, sample_images):
    outside = make.file("../outside/x.jpg", sample_images[0])
    make.files(".", {"ant/a.webp": sample_images[0], "ant/notes.txt": b"", "ant/noending": b""})
    make.files(".", {"loose.jpg": b"", "none/x": b""})
    (make.root / "ant" / "b.jpg").symlink_to(outside)
    (make.root / "ant" / "c.jpg").symlink_to("c.jpg")
    os.mkfifo(make.root / "ant" / "d.jpg")
    (make.root / "ant" / "up").symlink_to(make.root)
    (make.root / "far").symlink_to(outside.parent)
    (make.root / "again").symlink_to("ant")
    (make.root / "ant" / "e.jpg").mkdir()
    records, bad = walk(open_reader(make.root))
    assert [record.id for record in records] == ["again/a.webp", "ant/a.webp"]
    found = [(item.file, item.reason) for item in bad if not item.file.startswith("again")]
    assert found == [
        ("ant/b.jpg", "unsafe link"),
        ("ant/c.jpg", "unreadable file"),
        ("ant/d.jpg", "unreadable file"),
        ("ant/noending", "not an image"),
        ("ant/notes.txt", "not an image"),
        ("ant/up", "unsafe link"),
        ("far", "unsafe link"),
        ("far", "no images"),
        ("loose.jpg", "image outside a class folder"),
        ("none/x", "not an image"),
        ("none", "no images"),
    ]


def test_folders_nested_too_deeply(make, walk, sample_images):
    make.file(f"ant/{'x/' * 40}a.jpg", sample_images[0])
    make.file("ant/a.jpg", sample_images[0])
    (record,), (bad,) = walk(open_reader(make.root))
    assert (record.id, bad.reason) == ("ant/a.jpg", "nested too deeply")


def test_no_class_folders(make):
    make.file("a.jpg", b"x")
    with pytest.raises(UserError) as caught:
        list(open_reader(make.root, "imagefolder").records())
    assert caught.value.code == "corpus_unreadable"


def test_names_that_are_not_utf_8(make, walk, sample_images):
    folder = os.fsencode(make.file("ant/a.jpg", sample_images[0]).parent)
    with open(os.path.join(folder, b"b\xff.jpg"), "wb") as file:
        file.write(sample_images[1])
    (_, record), bad = walk(open_reader(make.root))
    assert (record.id, bad) == ("ant/b\ufffd.jpg", [])
    assert record.images[0].load() == sample_images[1]


def test_a_side_file_may_not_lead_out(make, sample_images):
    """Its lines would be quoted among what could not be read."""
    make.file("ant/a.jpg", sample_images[0])
    (make.root / "synset_words.txt").symlink_to(make.file("../key", "lcl_secret\n"))
    with pytest.raises(UserError, match=r"leads out of the folder; .* option 'synsets'") as caught:
        list(open_reader(make.root, "imagefolder").records())
    assert (caught.value.code, caught.value.field) == ("bad_path", "synsets")


def test_a_link_inside_the_folder_and_a_pipe(make, walk, sample_images):
    make.file("n01440764/a.jpg", sample_images[0])
    make.file("lists/words", "n01440764 tench, Tinca tinca\n")
    (make.root / "synset_words.txt").symlink_to("lists/words")
    (record,), _ = walk(open_reader(make.root, "imagefolder"))
    assert record.body.labels["class"] == "tench, Tinca tinca"
    os.mkfifo(make.root / "LOC_synset_mapping.txt")
    with pytest.raises(UserError, match="it is not an ordinary file"):
        list(open_reader(make.root, "imagefolder").records())


def test_folders_that_lead_out_are_not_listed(make, walk, sample_images):
    make.file("val/ant/a.jpg", sample_images[0])
    make.file("../outside/train/secret.jpg", b"x")
    (make.root / "train").symlink_to(make.root.parent / "outside" / "train")
    _, bad = walk(open_reader(make.root, "imagefolder"))
    assert [(item.file, item.reason) for item in bad] == [("train", "unsafe link")]
