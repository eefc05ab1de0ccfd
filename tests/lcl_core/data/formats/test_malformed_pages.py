"""Malformed pages and references: each has its defined result, and the page beside it is read."""

from __future__ import annotations

import base64
import os
import tracemalloc
import zipfile
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.formats import open_reader
from lcl_core.data.formats.html import parser
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.data.records import TextSegment

GOOD = "<p>A good page.</p>"
DEEP = parser.MAX_HTML_DEPTH

# page -> its texts (None: no record), reasons of bad items
PAGES: dict[str, tuple[bytes, list[str] | None, list[str]]] = {
    "an empty file": (b"", None, ["empty document"]),
    "blanks": (b" \n\t ", None, ["empty document"]),
    "NULs": (b"\0" * 5000, None, ["empty document"]),
    "markup alone": (b"<html><body><div></div></body></html>", None, ["empty document"]),
    "punctuation alone": (b"<p>***</p><p>-</p>", None, ["empty document"]),
    "no markup": (b"Just text.", ["Just text."], []),
    "noise": (bytes(range(128, 256)) * 50, None, ["empty document"]),
    "an unclosed comment": (b"<p>Before it.</p><!-- <p>Inside.</p>", ["Before it."], []),
    "an unclosed script": (b"<p>Before it.</p><script>var x = '<p>no</p>'", ["Before it."], []),
    "an unclosed title": (b"<p>Before it.</p><title><p>no</p>", ["Before it."], []),
    "an unclosed quote": (b"<p>Before it.</p><img src='a.webp><p>no</p>", ["Before it."], []),
    "an unclosed tag": (b"<p>Before it.</p><p class=x", ["Before it."], []),
    "crossed tags": (b"<b><p>One here.</b> <i>Two.</p></i><p>Three here.", ["One here. Two.", "Three here."], []),
    "ends without starts": (b"</div></p></body></html></nav><p>After it.</p>", ["After it."], []),
    "text after the end": (b"<html><body><p>In it.</p></body></html><p>After it.</p>", ["In it.", "After it."], []),
    "two bodies": (b"<body><p>One is.</p></body><body><p>Two is.</p></body>", ["One is.", "Two is."], []),
    "frames": (b"<frameset><frame src=x.html><noframes>no</noframes></frameset>", None, ["empty document"]),
    "an external entity": (b"<!DOCTYPE h SYSTEM 'file:///etc/passwd'><p>Fine here.</p>", ["Fine here."], []),
    "an unknown entity": (b"<p>It is &klingon; so.</p>", ["It is &klingon; so."], []),
    "nested a thousand deep": (b"<div>" * 1000 + b"Deep down.", ["Deep down."], []),
    "nested beyond the bound": (b"<div>" * (DEEP + 10) + b"Deep down.", None, ["bad page"]),
    "nested inside what is skipped": (b"<nav>" + b"<b>" * (DEEP + 10) + b"x", None, ["bad page"]),
    "tables in tables": (b"<table><tr><td>" * 2000 + b"Deep down.", ["Deep down."], []),
    "more images than are allowed": (b"<img src=none.png>" * (parser.MAX_PAGE_IMAGES + 1), None, ["bad page"]),
    "a hundred thousand attributes": (
        b"<p " + b" ".join(b"a%d=1" % n for n in range(100_000)) + b">Fine here.</p>",
        ["Fine here."],
        [],
    ),
    "an attribute of 11 MB": (b"<p title='" + b"x" * 11_000_000 + b"'>Fine here.</p>", ["Fine here."], []),
    "a page of another kind": (b"%PDF-1.7\n1 0 obj\n", ["%PDF-1.7 1 0 obj"], []),
    "bytes too many": (b"x" * ((16 << 20) + 1), None, ["unreadable page"]),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_malformed_page(make: Any, walk: Any, name: str) -> None:
    data, expected, reasons = PAGES[name]
    make.file("bad.html", data)
    make.file("good.html", GOOD)
    records, bad = walk(open_reader(make.root, "web"))
    texts = {record.id: [part.text for part in record.body.segments] for record in records}
    assert texts.pop("good.html") == ["A good page."]
    assert texts == ({} if expected is None else {"bad.html": expected})
    assert [(item.file, item.reason) for item in bad] == [("bad.html", reason) for reason in reasons]


ENTITIES = {
    "declared in the page": b"<!DOCTYPE h [<!ENTITY a 'x'>]><p>It is &a; so.</p>",
    "a billion laughs": (
        b"<!DOCTYPE h [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'><!ENTITY c '&b;&b;&b;&b;'>]><p>It is &c; so.</p>"
    ),
    "a file": b"<!DOCTYPE h [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><p>It is &a; so.</p>",
    "a number that is no character": b"<p>It is &#x110000;&#0;&#xD800; so.</p>",
}


@pytest.mark.parametrize("name", ENTITIES)
def test_entities_neither_expand_nor_stop_the_page(make: Any, walk: Any, name: str) -> None:
    make.file("bad.html", ENTITIES[name])
    (record,), bad = walk(open_reader(make.root, "web"))
    assert bad == []
    text = record.body.segments[-1].text
    assert text.startswith("It is ")
    assert text.endswith(" so.")
    assert len(text) < 30


BIG = base64.b64encode(b"\x89PNG" + bytes(1000)).decode()
# reference -> reason
REFERENCES = {
    "missing": ("gone.png", "missing image"),
    "empty": ("", "bad image reference"),
    "a folder": ("img", "missing image"),
    "the page's own folder": (".", "image outside the folder"),
    "climbing": ("../../secret.png", "image outside the folder"),
    "climbing from the top": ("/../secret.png", "image outside the folder"),
    "climbing in percent": ("%2e%2e/secret.png", "image outside the folder"),
    "climbing in percent throughout": ("..%2f..%2fsecret.png", "image outside the folder"),
    "climbing with backslashes": ("..\\secret.png", "image outside the folder"),
    "climbing within": ("img/../../secret.png", "image outside the folder"),
    "encoded twice": ("%252e%252e/secret.png", "missing image"),
    "a NUL": ("a%00.png", "bad image reference"),
    "a file URL": ("file:///etc/passwd", "image outside the folder"),
    "a drive": ("C:\\pictures\\a.png", "image outside the folder"),
    "a share": ("\\\\server\\a.png", "remote image"),
    "remote": ("https://example.org/a.png", "remote image"),
    "remote without scheme": ("//example.org/a.png", "remote image"),
    "an address that is none": ("http://[::1/a.png", "bad image reference"),
    "a script": ("javascript:alert(1)", "bad image reference"),
    "a blob": ("blob:https://example.org/1", "bad image reference"),
    "too long": ("a" * 9000 + ".png", "bad image reference"),
    "a name too long for files": ("a" * 3000 + ".png", "missing image"),
    "a link out": ("link.png", "image outside the folder"),
    "a loop of links": ("loop.png", "missing image"),
    "a pipe": ("pipe.png", "missing image"),
    "an empty image": ("empty.png", "unreadable image"),
    "text by the name of an image": ("text.png", "unreadable image"),
    "half an image's header": ("half.png", "unreadable image"),
    "a drawing": ("drawing.svg", "unsupported image"),
    "an image too large": ("giant.png", "image too large"),
    "data without comma": ("data:image/png;base64", "bad data URL"),
    "data that is not base64": ("data:image/png;base64,!!!!", "bad data URL"),
    "data cut short": ("data:image/png;base64,iVBORw0KGgo", "bad data URL"),
    "data that is no image": (f"data:image/png;base64,{BIG}", "unreadable image"),
    "data that is empty": ("data:,", "unreadable image"),
    "data that is a drawing": ("data:image/svg+xml,%3Csvg%3E%3C/svg%3E", "unsupported image"),
    "data with a long header": ("data:image/png;" + "x=y;" * 100 + "base64,AAAA", "bad data URL"),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_that_leads_nowhere(make: Any, walk: Any, sample: Any, name: str) -> None:
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


def test_pages_that_are_no_files(make: Any, walk: Any) -> None:
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


def test_names_that_are_not_utf_8(make: Any, walk: Any, sample: Any) -> None:
    folder = os.fsencode(make.file("x.txt", "").parent)
    for name, data in ((b"p\xff.html", b"<p>One.</p><img src='i%FF.webp'>"), (b"i.webp", b"")):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
    (record,), (bad,) = walk(open_reader(make.root, "web"))
    assert record.id == "p\ufffd.html"
    assert bad.reason == "missing image"


def test_folders_without_pages(make: Any) -> None:
    make.file("x.txt", "text")
    for format in ("web", "markdown"):
        with pytest.raises(UserError) as caught:
            list(open_reader(make.root, format).records())
        assert caught.value.code == "corpus_unreadable"


def test_a_zip_that_is_none(make: Any) -> None:
    path = make.file("x.zip", b"PK\3\4 and no more")
    with pytest.raises(UserError) as caught:
        list(open_reader(path, "web").records())
    assert caught.value.code == "corpus_unreadable"


def test_a_zip_whose_page_expands_too_much(make: Any, walk: Any) -> None:
    path = make.file("x.zip", b"")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.html", b"<p>word</p>" * 2_000_000)
        archive.writestr("b.html", GOOD)
        archive.writestr("../c.html", GOOD)
    (record,), bad = walk(open_reader(path, "web"))
    assert record.id == "b.html"
    assert [(item.file, item.reason) for item in bad] == [(name, "unreadable page") for name in ("../c.html", "a.html")]


def test_a_large_page_needs_bounded_memory(make: Any) -> None:
    """Nearly a megabyte of nested elements without text."""
    make.file("x.html", b"<i>" * 9000 + b"<b></b>" * 100_000 + b"Deep down.")
    tracemalloc.start()
    try:
        (record,) = open_reader(make.root, "web").records()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert record.body.segments == (TextSegment("Deep down."),)
    assert peak < 20 << 20
