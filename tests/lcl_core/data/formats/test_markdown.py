"""Markdown pages as documents."""

import base64
import sys

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.formats import open_reader
from lcl_core.data.records import TextSegment


def reported(record):
    segments = getattr(record.body, "segments", ())
    return [part.text if isinstance(part, TextSegment) else f"<{part.name}>" for part in segments]


@pytest.fixture
def wiki(make, sample, walk):
    """Writes pages beside three real images, and reads them."""
    for name, pair in zip(("a.webp", "my pic.webp", "img/c.webp"), sample.pairs, strict=False):
        make.file(name, sample.image(pair["image"]))

    def read(pages, **options):
        for name, text in ({"page.md": pages} if isinstance(pages, str) else pages).items():
            make.file(name, text)
        return walk(open_reader(make.root, "markdown", **options))

    return read


def test_a_page_in_reading_order(wiki, make):
    (record,), bad = wiki(
        """---
title: "All about ants"
tags: [a, b]
---

# Ants & co

An ant is *small*. It works
`hard` all day.

![A worker ant](a.webp "Its title")

* First thing
* Second thing

| name | size |
|------|------|
| ant  | 3 mm |

## Code

```python
print("hello")
```
"""
    )
    assert bad == []
    assert reported(record) == [
        "Ants & co",
        "An ant is small.",
        "It works hard all day.",
        "<a.webp>",
        "A worker ant",
        "First thing",
        "Second thing",
        "name size",
        "ant 3 mm",
        "Code",
        'print("hello")',
    ]
    assert record.extra == {"page": "page.md", "title": "All about ants"}
    assert record.images[0].load() == (make.root / "a.webp").read_bytes()


IMAGES = {
    "inline": ("![x1](a.webp)", ["<a.webp>", "x1"]),
    "in a sentence": ("Look at ![x1](a.webp) closely.", ["Look at", "<a.webp>", "x1", "closely."]),
    "by reference": ("![x1][pic]\n\n[pic]: img/c.webp 'title'", ["<img/c.webp>", "x1"]),
    "by its own name": ("![pic]\n\n[PIC]: img/c.webp", ["<img/c.webp>", "pic"]),
    "with blanks": ("![](<my pic.webp>)", ["<my pic.webp>"]),
    "percent-encoded": ("![](my%20pic.webp)", ["<my pic.webp>"]),
    "in a link": ("[![x1](a.webp)](https://example.org)", ["<a.webp>", "x1"]),
    "in HTML": ('<p align="center"><img width=50 src="a.webp" alt="x1"></p>', ["<a.webp>", "x1"]),
    "a figure of HTML": (
        "<figure>\n<img src='a.webp' alt='An ant'>\n<figcaption>An ant.</figcaption>\n</figure>",
        ["<a.webp>", "An ant."],
    ),
    "in a list": ("- one thing\n  ![](a.webp)\n- two things", ["one thing", "<a.webp>", "two things"]),
    "in a table": ("| p | q |\n|---|---|\n| ![](a.webp) | r1 |", ["p q", "<a.webp>", "r1"]),
    "no image but code": ("`![x1](a.webp)`", ["![x1](a.webp)"]),
    "no image but escaped": (r"\![x1](a.webp)", ["!x1"]),
    "no such reference": ("![x1][none]", ["![x1][none]"]),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_stand_where_the_page_has_them(wiki, name):
    text, expected = IMAGES[name]
    (record,), bad = wiki(text)
    assert (reported(record), bad) == (expected, [])


def test_an_image_in_the_page_itself(wiki, sample):
    data = sample.image(sample.pairs[0]["image"])
    (record,), bad = wiki(f"![x1](data:image/webp;base64,{base64.b64encode(data).decode()})")
    assert bad == []
    assert record.images[0].load() == data


def test_bad_references_are_reported_with_their_line_in_the_markdown(wiki):
    (record,), bad = wiki(
        "---\ntitle: x\n---\n\nOne.\n\n![gone](none.png)\n\n![far](https://example.org/x.png)\n\n"
        "Some ![up](../../secret.png) text.\n\n<img src='none.png'>\n\n![odd](javascript:alert)\n"
    )
    assert reported(record) == ["One.", "Some text."]
    assert [(item.line, item.reason) for item in bad] == [
        (7, "missing image"),
        (9, "remote image"),
        (11, "image outside the folder"),
        (13, "missing image"),
        (15, "bad image reference"),
    ]


def test_line_ends_and_encodings(wiki):
    marked = b"\xef\xbb\xbf# One\r\n\r\nTwo\r\nthree\r\n"
    records, bad = wiki({"a.md": marked, "b.markdown": "Gr\u00fcn".encode("utf-16"), "c.MD": b"x\xff1"})
    assert [reported(record) for record in records] == [["One", "Two three"], ["Gr\u00fcn"], ["x\ufffd1"]]
    assert bad == []


def test_front_matter_must_be_closed(wiki):
    records, _ = wiki({"a.md": "---\ntitle: x\n\nText.", "b.md": "---\n---\nText.", "c.md": "--- \nText."})
    assert [reported(record) for record in records] == [["title: x", "Text."], ["Text."], ["Text."]]


def test_a_wiki_is_recognised_and_a_readme_is_none(make, sample):
    make.file("wiki/Home.md", "# Home")
    make.file("wiki/x.png", b"")
    assert open_reader(make.root / "wiki").format == "markdown"
    make.file("images/README.md", "# About")
    make.file("images/ant/x.webp", b"")
    assert open_reader(make.root / "images").format == "imagefolder"


# page -> does a record come, reasons of bad items
MALFORMED = {
    "an empty file": ("", False, ["empty document"]),
    "front matter alone": ("---\na: b\n---\n", False, ["empty document"]),
    "quotes nested too deeply": (">" * 5000 + " deep", False, ["empty document"]),
    "lists nested deeply": ("".join("  " * n + "- item here\n" for n in range(200)), True, []),
    "many brackets": ("[" * 1500 + "end here", True, []),
    "stars without end": ("*a **b " * 2000, True, []),
    "backticks of every length": (" ".join("`" * n for n in range(400)) + " end here", True, []),
    "angles without end": ("<" * 50_000 + " end here", True, []),
    "comments without end": ("a <!-- " * 10_000, True, []),
    "references without use": ("".join(f"[r{n}]: x{n}\n" for n in range(10_000)), False, ["empty document"]),
    "a fence without end": ("```\ncode here", True, []),
    "NULs": ("a\0b c", True, []),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_markdown(wiki, name):
    text, comes, reasons = MALFORMED[name]
    records, bad = wiki({"bad.md": text, "good.md": "Good page."})
    assert {record.id.partition("#")[0] for record in records} == ({"bad.md", "good.md"} if comes else {"good.md"})
    assert [(item.file, item.reason) for item in bad] == [("bad.md", reason) for reason in reasons]


def test_without_the_parser_the_extra_is_named(make, monkeypatch):
    make.file("x.md", "x")
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    with pytest.raises(UserError, match=r"lcl\[data\]") as caught:
        list(open_reader(make.root).records())
    assert caught.value.code == "missing_extra"
