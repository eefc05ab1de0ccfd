"""Finding named images."""

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.formats import open_reader
from lcl_core.data.formats.image_lookup import ImageFinder, find_images

NAMES = ("a.jpg", "b.jpg", "c.jpg", "sub/c.jpg", "./a.jpg", "d.e._f.jpg", "plain")


def code_of(sample_image):
    with pytest.raises(UserError) as caught:
        sample_image.load()
    return caught.value.code


def test_a_tar_goes_before_the_folder_around_it(make):
    make.files("i", {"a.jpg": b"folder a", "b.jpg": b"folder b"})
    make.tar("i/x.tar", [("a.jpg", b"tar a"), ("sub/c.jpg", b"tar c"), ("d.e._f.jpg", b"dots"), ("plain", b"plain")])
    finder = ImageFinder(make.root / "i")
    found = {name: finder.find(name).load() for name in NAMES}
    assert found == {
        "a.jpg": b"tar a",
        "b.jpg": b"folder b",
        "c.jpg": b"tar c",
        "sub/c.jpg": b"tar c",
        "./a.jpg": b"tar a",
        "d.e._f.jpg": b"dots",
        "plain": b"plain",
    }


def test_the_first_of_two_images_of_one_name(make):
    make.tar("i/1.tar", [("a.jpg", b"first"), ("a.jpg", b"second")])
    make.tar("i/2.tar", [("a.jpg", b"third")])
    assert ImageFinder(make.root / "i").find("a.jpg").load() == b"first"


def test_the_name_goes_before_the_url(make, sample):
    urls = list(sample.urls())
    finder = ImageFinder(make.img2dataset("i", sample.urls()))
    assert finder.find("000000001.jpg", urls[0]).load() == sample.urls()[urls[1]]
    assert finder.find("none.jpg", urls[0]).load() == sample.urls()[urls[0]]
    assert finder.find_url(urls[2], "called").name == "called"
    assert code_of(finder.find_url("https://example.org/gone", "x")) == "file_missing"


def test_without_images_each_is_missing():
    finder = ImageFinder(None)
    assert code_of(finder.find("a.jpg", "u")) == "file_missing"
    assert code_of(finder.find_url("u", "x")) == "file_missing"


def side(make, name, rows):
    make.parquet(name, {"key": [key for key, _ in rows], "url": [url for _, url in rows]})


def test_a_row_without_its_file_hides_no_other(make):
    side(make, "i/00000.parquet", [("0", "u"), ("1", "v"), ("2", "v")])
    side(make, "i/00001.parquet", [("3", "u")])
    make.files("i", {"00000/2.webp": b"v", "00000/2.txt": b"t", "00001/3.png": b"u", "00001/3.json": b"{}"})
    finder = ImageFinder(make.root / "i")
    assert [finder.find_url(url, "x").load() for url in "uv"] == [b"u", b"v"]
    assert finder.problems == []
    assert code_of(finder.find("3.png")) == "file_missing", "by name only where that is meant"


def test_side_files_one_folder_down(make):
    side(make, "i/part/0.parquet", [("0", "u")])
    make.files("i/part/0", {"0.jpg": b"u"})
    assert ImageFinder(make.root / "i").find_url("u", "x").load() == b"u"


def test_names_in_subfolders(make):
    make.files("i", {"1/a.jpg": b"first", "2/a.jpg": b"second", "2/no extension": b"n", "2/a.json": b"{}", "b": b"b"})
    make.files("i/3", {".hidden.jpg": b"h", "deep/c.jpg": b"c"})
    outside = make.files("outside", {"d.jpg": b"d"})
    (make.root / "i/4").symlink_to(outside)
    finder = ImageFinder(make.root / "i", subfolders=True)
    assert [finder.find(name).load() for name in ("a.jpg", "no extension", "b", "3/deep/c.jpg")] == [
        b"first",
        b"n",
        b"b",
        b"c",
    ]
    assert [code_of(finder.find(name)) for name in (".hidden.jpg", "a.json", "c.jpg", "d.jpg")] == ["file_missing"] * 4
    assert [(item.file, item.reason) for item in finder.problems] == [("4", "unsafe link")]


@pytest.mark.parametrize("extension", ["jfif", "JPE", "ppm", "pgm", "pbm", "pnm"])
def test_files_of_all_formats_that_are_decoded(make, extension):
    make.tar("x.tar", [(f"0.{extension}", b"x")])
    side(make, "x.parquet", [("0", "u")])
    assert ImageFinder(make.root).find_url("u", "x").load() == b"x"


def test_a_tar_that_shrinks_after_it_was_indexed(make):
    path = make.tar("x.tar", [("a.jpg", b"x" * 5000)])
    image = ImageFinder(path).find("a.jpg")
    path.write_bytes(path.read_bytes()[:1000])
    assert code_of(image) == "file_unreadable"
    path.unlink()
    assert code_of(image) == "file_unreadable"


@pytest.mark.parametrize("whole", ["folder", "file"])
def test_a_folder_of_images_may_not_lead_out(make, whole):
    file = make.file("table.csv", "image,caption\na.jpg,an ant\n")
    make.file("../private/a.jpg", b"secret")
    corpus = make.root if whole == "folder" else file
    (make.root / "images").symlink_to(make.root.parent / "private")
    with pytest.raises(UserError, match=r"leads out of the folder; .* option 'images'") as caught:
        list(open_reader(corpus, "table").records())
    assert (caught.value.code, caught.value.field) == ("bad_path", "images")
    assert find_images(make.root.parent / "private", corpus) == make.root.parent / "private"


def test_a_folder_of_images_may_be_a_link_inside_the_corpus(make):
    make.file("sub/a.jpg", b"a")
    (make.root / "images").symlink_to("sub")
    assert ImageFinder(find_images(None, make.root)).find("a.jpg").load() == b"a"


@pytest.mark.parametrize("beside", ["a tar", "a folder"])
def test_a_side_file_may_not_lead_out(make, beside):
    make.parquet("private.parquet", {"key": ["0"], "url": ["u"]})
    if beside == "a tar":
        make.tar("i/0.tar", [("0.jpg", b"x")])
    else:
        make.file("i/0/0.jpg", b"x")
    (make.root / "i" / "0.parquet").symlink_to(make.root / "private.parquet")
    finder = ImageFinder(make.root / "i")
    assert [(item.file, item.reason) for item in finder.problems] == [("0.parquet", "unsafe link")]
    assert code_of(finder.find_url("u", "x")) == "file_missing"
    (make.root / "private.parquet").rename(make.root / "i" / "moved")
    (make.root / "i" / "0.parquet").unlink()
    (make.root / "i" / "0.parquet").symlink_to("moved")
    assert ImageFinder(make.root / "i").find_url("u", "x").load() == b"x"
