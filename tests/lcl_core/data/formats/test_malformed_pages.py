"""Malformed pages and references: each has its defined result, and the page beside it is read."""

import base64
import os

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.formats import open_reader
from lcl_core.data.formats.html import parser
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.data.records import TextSegment

GOOD = "<p>A good page.</p>"
DEEP = parser.MAX_HTML_DEPTH

# page -> its texts (None: no record), reasons of bad items
PAGES = {
    "an empty file": (b"", None, ["empty document"]),
    "no markup": (b"Just text.", ["Just text."], []),
    "noise": (bytes(range(128, 256)) * 50, None, ["empty document"]),
    "an unclosed comment": (b"<p>Before it.</p><!-- <p>Inside.</p>", ["Before it."], []),
    "an unclosed script": (b"<p>Before it.</p><script>var x = '<p>no</p>'", ["Before it."], []),
    "crossed tags": (b"<b><p>One here.</b> <i>Two.</p></i><p>Three here.", ["One here. Two.", "Three here."], []),
    "ends without starts": (b"</div></p></body></html></nav><p>After it.</p>", ["After it."], []),
    "text after the end": (b"<html><body><p>In it.</p></body></html><p>After it.</p>", ["In it.", "After it."], []),
    "an external entity": (b"<!DOCTYPE h SYSTEM 'file:///etc/passwd'><p>Fine here.</p>", ["Fine here."], []),
    "an unknown entity": (b"<p>It is &klingon; so.</p>", ["It is &klingon; so."], []),
    "nested a thousand deep": (b"<div>" * 1000 + b"Deep down.", ["Deep down."], []),
    "nested beyond the bound": (b"<div>" * (DEEP + 10) + b"Deep down.", None, ["bad page"]),
    "more images than are allowed": (b"<img src=none.png>" * (parser.MAX_PAGE_IMAGES + 1), None, ["bad page"]),
    "bytes too many": (b"x" * ((16 << 20) + 1), None, ["unreadable page"]),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_malformed_page(make, walk, name):
    data, expected, reasons = PAGES[name]
    make.file("bad.html", data)
    make.file("good.html", GOOD)
    records, bad = walk(open_reader(make.root, "web"))
    texts = {record.id: [part.text for part in record.body.segments] for record in records}
    assert texts.pop("good.html") == ["A good page."]
    assert texts == ({} if expected is None else {"bad.html": expected})
    assert [(item.file, item.reason) for item in bad] == [("bad.html", reason) for reason in reasons]


BIG = base64.b64encode(b"\x89PNG" + bytes(1000)).decode()
# reference -> reason
REFERENCES = {
    "missing": ("gone.png", "missing image"),
    "empty": ("", "bad image reference"),
    "climbing": ("../../secret.png", "image outside the folder"),
    "climbing in percent": ("%2e%2e/secret.png", "image outside the folder"),
    "climbing with backslashes": ("..\\secret.png", "image outside the folder"),
    "a NUL": ("a%00.png", "missing image"),
    "a file URL": ("file:///etc/passwd", "image outside the folder"),
    "remote": ("https://example.org/a.png", "remote image"),
    "remote without scheme": ("//example.org/a.png", "remote image"),
    "a script": ("javascript:alert(1)", "bad image reference"),
    "too long": ("a" * 9000 + ".png", "missing image"),
    "a link out": ("link.png", "image outside the folder"),
    "a loop of links": ("loop.png", "missing image"),
    "a pipe": ("pipe.png", "missing image"),
    "an empty image": ("empty.png", "unreadable image"),
    "text by the name of an image": ("text.png", "unreadable image"),
    "a drawing": ("drawing.svg", "unsupported image"),
    "an image too large": ("giant.png", "image too large"),
    "data without comma": ("data:image/png;base64", "bad data URL"),
    "data that is not base64": ("data:image/png;base64,!!!!", "bad data URL"),
    "data that is no image": (f"data:image/png;base64,{BIG}", "unreadable image"),
    "data that is a drawing": ("data:image/svg+xml,%3Csvg%3E%3C/svg%3E", "unsupported image"),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_that_leads_nowhere(make, walk, sample, name):
    reference, reason = REFERENCES[name]
    make.file("a.webp", sample.image(sample.pairs[0]["image"]))
    make.file("img/x.txt", "")
    secret = make.file("../secret.png", sample.image(sample.pairs[0]["image"]))
    (make.root / "link.png").symlink_to(secret)
    (make.root / "loop.png").symlink_to("loop.png")
    os.mkfifo(make.root / "pipe.png")
    make.file("empty.png", b"")
    make.file("text.png", "not an image")
    make.file("half.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    make.file("drawing.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>")
    with make.file("giant.png", b"").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    make.file("x.html", f'<p>One.</p>\n<img alt="gone" src="{reference}"><p>Two.</p><img src=a.webp>')
    (record,), (bad,) = walk(open_reader(make.root, "web"))
    texts = [part.text if isinstance(part, TextSegment) else f"<{part.name}>" for part in record.body.segments]
    assert texts == ["One.", "Two.", "<a.webp>"]
    assert (bad.file, bad.line, bad.reason) == ("x.html", 2, reason)
    assert 0 < len(bad.detail) < 600


def test_pages_that_are_no_files(make, walk):
    make.file("a.html", GOOD)
    (make.root / "b.html").symlink_to(make.file("../outside.html", GOOD))
    (make.root / "c.html").symlink_to("c.html")
    (make.root / "d.html").symlink_to("nothing")
    os.mkfifo(make.root / "e.html")
    make.file(".git/f.html", GOOD)
    (make.root / "up").symlink_to(make.root)
    records, bad = walk(open_reader(make.root, "web"))
    assert [record.id for record in records] == ["a.html"]
    assert [(item.file, item.reason) for item in bad] == [(f"{name}.html", "unreadable page") for name in "bcde"]


def test_a_zip_that_is_none(make):
    path = make.file("x.zip", b"PK\3\4 and no more")
    with pytest.raises(UserError) as caught:
        list(open_reader(path, "web").records())
    assert caught.value.code == "corpus_unreadable"
