"""HTML pages as documents: figures in place, texts kept, surroundings dropped."""

import base64
import io
import struct
import sys
import zlib

import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data.formats import open_reader
from lcl_core.data.formats.html.site import MarkdownReader
from lcl_core.data.jsonl import BadValue
from lcl_core.data.records import ImageSegment, TextSegment

PNG = b"\x89PNG\r\n\x1a\n"


def reported(record):
    """Segments as text, images in angle brackets."""
    segments = getattr(record.body, "segments", ())
    return [part.text if isinstance(part, TextSegment) else f"<{part.name}>" for part in segments]


def png(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def facts(bad):
    return [(item.file, item.line, item.reason) for item in bad]


@pytest.fixture
def site(make, sample, walk):
    """Writes pages beside three real images, and reads them."""
    for name, pair in zip(("a.webp", "b.webp", "img/c.webp"), sample.pairs, strict=False):
        make.file(name, sample.image(pair["image"]))

    def read(pages, **options):
        for name, text in ({"page.html": pages} if isinstance(pages, str) else pages).items():
            make.file(name, text)
        return walk(open_reader(make.root, "web", **options))

    return read


def test_a_page_in_reading_order(site, make):
    (record,), bad = site(
        """<!DOCTYPE html><html><head><title>Ants &amp; bees</title></head><body>
        <h1>Ants</h1><p>An ant is small. It   works <b>hard</b>
        all day.</p>
        <figure><img src="a.webp" alt="An ant, seen from the side"><figcaption>A worker ant.</figcaption></figure>
        <p>Look at <img src="b.webp"> closely now.</p><ul><li>First thing</li><li>Second thing</li></ul>
        <h2>Bees</h2><p>Caf&eacute; &lt;b&gt;.</p></body></html>"""
    )
    assert bad == []
    assert reported(record) == [
        "Ants",
        "An ant is small.",
        "It works hard all day.",
        "<a.webp>",
        "An ant, seen from the side",
        "A worker ant.",
        "Look at",
        "<b.webp>",
        "closely now.",
        "First thing",
        "Second thing",
        "Bees",
        "Café <b>.",
    ]
    assert (record.id, record.split) == ("page.html", "train")
    assert record.extra == {"page": "page.html", "title": "Ants & bees"}
    assert [image.name for image in record.images] == ["a.webp", "b.webp"]
    assert record.images[0].load() == (make.root / "a.webp").read_bytes()


CAPTIONS = {
    "alt equal to the caption": (
        '<figure><img src="a.webp" alt="A worker ant"><figcaption>A worker ant.</figcaption></figure>',
        ["<a.webp>", "A worker ant."],
    ),
    "alt with which the caption begins": (
        '<figure><img src="a.webp" alt="A worker"><figcaption>A worker, resting.</figcaption></figure>',
        ["<a.webp>", "A worker, resting."],
    ),
    "alt that the caption holds": (
        '<figure><img src="a.webp" alt="“Ant”, at rest"><figcaption>Figure 1.2. “Ant” at rest</figcaption></figure>',
        ["<a.webp>", "Figure 1.2. “Ant” at rest"],
    ),
    "alt that the caption holds in part": (
        '<figure><img src="a.webp" alt="Ant at rest"><figcaption>Ants at rest</figcaption></figure>',
        ["<a.webp>", "Ant at rest", "Ants at rest"],
    ),
    "alt that is a file name": ('<img src="a.webp" alt="../_images/a.webp">', ["<a.webp>"]),
    "alt that says nothing": ('<img src="a.webp" alt="Image">', ["<a.webp>"]),
    "a caption before its image": (
        '<figure><figcaption>Figure 1.</figcaption><img src="a.webp"></figure><p>After it.</p>',
        ["<a.webp>", "Figure 1.", "After it."],
    ),
    "two images, one caption": (
        '<figure><img src="a.webp" alt="left"><img src="b.webp"><figcaption>Both of them.</figcaption></figure>',
        ["<a.webp>", "left", "<b.webp>", "Both of them."],
    ),
    "figures within a figure": (
        '<figure><figure><img src="a.webp"><figcaption>One.</figcaption></figure>'
        '<figure><img src="b.webp"><figcaption>Two.</figcaption></figure><figcaption>All.</figcaption></figure>',
        ["<a.webp>", "One.", "<b.webp>", "Two.", "All."],
    ),
    "DocBook": (
        '<div class="figure"><p class="title">Figure 2. Ants</p>'
        '<div class="mediaobject"><img src="a.webp"></div></div>',
        ["<a.webp>", "Figure 2. Ants"],
    ),
    "MediaWiki": (
        '<div class="thumb tright"><div class="thumbinner"><a href="x"><img src="a.webp"></a>'
        '<div class="thumbcaption">An ant.</div></div></div>',
        ["<a.webp>", "An ant."],
    ),
    "Sphinx": (
        '<div class="figure align-default"><img src="a.webp" alt="a.webp"><p class="caption">'
        '<span>An ant.</span><a class="headerlink" href="#x">¶</a></p></div>',
        ["<a.webp>", "An ant."],
    ),
    "a caption whose image is gone": (
        "<figure><img src='gone.png'><figcaption>It was here.</figcaption></figure>",
        ["It was here."],
    ),
    "the caption of a table": (
        "<table><caption>Sizes</caption><tr><td>ant</td><td>3 mm</td></tr></table>",
        ["Sizes", "ant 3 mm"],
    ),
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_follow_their_image(site, name):
    html, expected = CAPTIONS[name]
    (record,), _ = site(html)
    assert reported(record) == expected


SOURCES = {
    "plain": '<img src="img/c.webp">',
    "percent-encoded": '<img src="img%2Fc.webp">',
    "with a query": '<img src="img/c.webp?v=3#x">',
    "absolute": '<img src="/img/c.webp">',
    "up and down again": '<img src="img/../img/./c.webp">',
    "with backslashes": '<img src="img\\c.webp">',
    "padded": '<img src="\n img/c.webp ">',
    "srcset alone": '<img srcset="none.png 1x, img/c.webp 2x">',
    "loaded lazily": '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" data-src="img/c.webp">',
    "a picture's source": '<picture><source srcset="img/c.webp 800w" type="image/webp"><img src="gone.jpg"></picture>',
    "a picture's fallback": '<picture><source srcset="gone.avif"><img src="img/c.webp"></picture>',
    "a base": '<base href="img/"><img src="c.webp">',
    "a base on another site": '<base href="https://example.org/x/"><img src="img/c.webp">',
    "upper case": "<IMG SRC=img/c.webp>",
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_reference_is_followed(site, name):
    (record,), bad = site(f"<p>One.</p>{SOURCES[name]}<p>Two.</p>")
    assert (reported(record), bad) == (["One.", "<img/c.webp>", "Two."], [])


def test_an_image_in_the_page_itself(site, sample):
    data = sample.image(sample.pairs[0]["image"])
    (record,), bad = site(f'<p>x1</p><img src="data:image/webp;base64,{base64.b64encode(data).decode()}">')
    assert bad == []
    assert record.images[0].load() == data
    assert record.images[0].name.endswith(".webp")


def test_an_image_used_twice_is_one_image(site):
    (record,), _ = site("<img src=a.webp><p>between</p><img src=./a.webp>")
    assert reported(record) == ["<a.webp>", "between", "<a.webp>"]
    assert len(record.images) == 1


SURROUNDINGS = {
    "nav": "<nav>menu</nav>",
    "a banner": "<header><img src=a.webp>banner</header>",
    "footer": "<footer>contact</footer>",
    "aside": "<aside>see also</aside>",
    "script": "<script>var a = '<p>no</p>';</script>",
    "style": "<style>p { color: red }</style>",
    "noscript": "<noscript><img src=a.webp></noscript>",
    "template": "<template><p>no</p></template>",
    "hidden": "<div hidden><p>no</p></div>",
    "display none": "<div style='color:red; DISPLAY : none'><p>no</p></div>",
    "aria-hidden": "<span aria-hidden=true>no</span>",
    "a role": "<div role=navigation>no</div>",
    "a class of Sphinx": "<div class='sphinxsidebar x'>no</div>",
    "a class of DocBook": "<div class=navheader>no</div>",
    "an id": "<div id=sidebar>no</div>",
    "a form's parts": "<form><select><option>no</select><textarea>no</textarea><button>no</button></form>",
    "a drawing": "<svg><title>no</title><text>no</text></svg>",
    "a comment": "<!-- <p>no</p> -->",
    "a film": "<video><source src=a.webp>no</video>",
    "an anchor's mark": "<a class=headerlink href=#x>¶</a>",
    "nested": "<nav><div><nav>a</nav></div>b</nav>",
    "unclosed": "<nav><ul><li>a<li>b</nav>",
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings_are_dropped(site, name):
    (record,), bad = site(f"<html><body><p>One.</p>{SURROUNDINGS[name]}<p>Two.</p></body></html>")
    assert (reported(record), bad) == (["One.", "Two."], [])


def test_the_content_proper_is_what_counts(site):
    long = "word " * 20
    records, _ = site(
        {
            "main.html": "<p>above</p><main><h1>Title</h1><p>inside</p></main><p>below</p>",
            "role.html": "<p>above</p><div role=main><p>inside</p></div>",
            "article.html": f"<p>above</p><article><header><h1>Title</h1></header><p>{long}</p></article>",
            "short.html": f"<p>{long}</p><article><p>teaser</p></article>",
            "two.html": f"<article><p>{long}</p></article><article><p>second one</p></article>",
        }
    )
    long = long.strip()
    assert {record.id: reported(record) for record in records} == {
        "main.html": ["Title", "inside"],
        "role.html": ["inside"],
        "article.html": ["Title", long],
        "short.html": [long, "teaser"],
        "two.html": [long, "second one"],
    }


def test_what_most_pages_repeat_is_reported_once_and_dropped(site):
    pages = {f"{n}.html": f"<p>All rights reserved.</p><h2>Notes</h2><p>Page number {n}.</p>" for n in range(8)}
    records, bad = site(pages)
    assert [reported(record) for record in records] == [["Notes", f"Page number {n}."] for n in range(8)]
    assert facts(bad) == [("0.html", 1, "repeated text")]
    assert "8 of 8 pages" in bad[0].detail


def test_icons_are_reported_once_and_dropped(site, make):
    make.file("small.png", png(31, 200))
    make.file("rule.png", png(400, 40))
    page = "<p>Click the <img src=small.png alt=Save> button {}.</p><img src=rule.png><img src=small.png>"
    records, bad = site({f"{n}.html": page.format(n) + "<img src=a.webp>" for n in range(6)})
    assert [reported(record) for record in records] == [[f"Click the button {n}."] for n in range(6)]
    assert facts(bad) == [("0.html", 1, f"{kind} image") for kind in ("repeated", "repeated", "repeated")]
    records, bad = site({}, max_uses=6)
    assert [reported(record)[1] for record in records] == ["<a.webp>"] * 6
    assert facts(bad) == [("0.html", 1, "small image"), ("0.html", 1, "long image")]
    records, bad = site({}, max_uses=6, min_side=0, max_aspect=10)
    assert bad == []
    icon = ["<small.png>", "Save"]
    assert reported(records[0]) == ["Click the", *icon, "button 0.", "<rule.png>", "<small.png>", "<a.webp>"]


def test_long_pages_are_cut_at_headings(site):
    section = "<h2>Section {}</h2>" + "<p>Some words that make a sentence here.</p>" * 4
    records, bad = site("".join(section.format(n) for n in range(6)), max_words=70)
    assert bad == []
    assert [reported(record)[0] for record in records] == ["Section 0", "Section 2", "Section 4"]
    assert [record.id for record in records] == ["page.html", "page.html#1", "page.html#2"]
    assert all(len(" ".join(reported(record)).split()) <= 70 for record in records)


def test_cutting_loses_nothing_and_keeps_captions_with_their_image(site):
    figure = "<figure><img src={}.webp><figcaption>Caption {}.</figcaption></figure><p>Words in between.</p>"
    records, _ = site("".join(figure.format(name, n) for n, name in enumerate("ab" * 4)), max_images=3)
    assert [sum(isinstance(part, ImageSegment) for part in record.body.segments) for record in records] == [3, 3, 2]
    assert all(reported(record)[:1] in (["<a.webp>"], ["<b.webp>"]) for record in records)
    joined = [part for record in records for part in reported(record)]
    assert [part for part in joined if part.startswith("Caption")] == [f"Caption {n}." for n in range(8)]
    assert [joined[place + 1][:7] for place, part in enumerate(joined) if part.startswith("<")] == ["Caption"] * 8


ENCODINGS = {
    "UTF-8": ("<p>Grün 猫</p>".encode(), "Grün 猫"),
    "UTF-8 with a mark": (b"\xef\xbb\xbf" + "<meta charset=latin1><p>Grün</p>".encode(), "Grün"),
    "UTF-16 little": (b"\xff\xfe" + "<p>Grün 猫</p>".encode("utf-16-le"), "Grün 猫"),
    "UTF-16 big": (b"\xfe\xff" + "<p>Grün 猫</p>".encode("utf-16-be"), "Grün 猫"),
    "Latin 1 declared": (b"<meta charset='iso-8859-1'><p>Gr\xfcn \x93x\x94</p>", "Grün “x”"),
    "old declaration": (
        b'<meta http-equiv="Content-Type" content="text/html; charset=koi8-r"><p>' + "кот".encode("koi8-r") + b"</p>",
        "кот",
    ),
    "Shift JIS": (b"<meta charset=shift_jis><p>" + "猫です".encode("shift_jis") + b"</p>", "猫です"),
    "XML's declaration": (b"<?xml version='1.0' encoding='iso-8859-2'?><p>\xb1</p>", "ą"),
    "a wrong declaration": ("<meta charset=utf-16><p>Grün</p>".encode(), "Grün"),
    "an unknown one": ("<meta charset=klingon><p>Grün</p>".encode(), "Grün"),
    "no encoding of text": ("<meta charset=hex><p>Grün</p>".encode(), "Grün"),
    "a codec that runs wild": ("<meta charset=idna><p>Grün</p>".encode(), "Grün"),
    "invalid UTF-8": (b"<p>Gr\xfcn x</p>", "Gr\ufffdn x"),
    "NULs": (b"<p>a\0b\0</p>", "a\ufffdb\ufffd"),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings(site, name):
    data, expected = ENCODINGS[name]
    (record,), bad = site({"page.html": data})
    assert (reported(record), bad) == ([expected], [])


def test_xhtml_closes_elements_in_its_own_way(site):
    page = '<?xml version="1.0"?><!DOCTYPE html><html><head><title/><script src="x"/></head><body><a id="x"/><p>y1</p>'
    (record,), _ = site({"page.xhtml": page + "<div/><p>z1</p></body></html>"})
    assert reported(record) == ["y1", "z1"]


def test_images_elsewhere_are_found_by_their_address(site, make, sample):
    urls = sample.urls()
    shards = make.img2dataset("../remote", urls)
    url, data = next(iter(urls.items()))
    page = f'<p>One.</p><img src="{url}"><img src="https://example.org/gone.png"><img src="//example.org/x.png">'
    (record,), bad = site(page, images=shards)
    assert reported(record) == ["One.", f"<{url}>"]
    assert record.images[0].load() == data
    assert [item.reason for item in bad] == ["remote image"] * 2
    (record,), bad = site({})
    assert reported(record) == ["One."]
    assert [item.detail for item in bad] == [url, "https://example.org/gone.png", "https://example.org/x.png"]


def test_a_zip_and_a_single_page(make, sample, walk):
    image = sample.image(sample.pairs[0]["image"])
    packed = make.zip("site.zip", {"docs/x.html": b"<p>One.</p><img src=../a.webp>", "a.webp": image})
    reader = open_reader(packed)
    (record,), bad = walk(reader)
    assert (reader.format, reported(record), bad) == ("web", ["One.", "<a.webp>"], [])
    assert record.images[0].load() == image
    make.file("site/x.html", "<p>One.</p>")
    make.file("site/y.html", "<p>Two.</p>")
    (record,), _ = walk(open_reader(make.root / "site" / "x.html"))
    assert reported(record) == ["One."]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It works. It rests.", ["It works. It rests."]),
        ("It works all day. Then it rests.", ["It works all day.", "Then it rests."]),
        ("See Fig. 3 for all of it. Dr. Who is there, too.", ["See Fig. 3 for all of it.", "Dr. Who is there, too."]),
        ("Use e.g. Blender or so. Version 4.3 is out now.", ["Use e.g. Blender or so.", "Version 4.3 is out now."]),
        ("It was sold on Jan. 3 of that year.", ["It was sold on Jan. 3 of that year."]),
        ("“Is it so?” He was not sure.", ["“Is it so?”", "He was not sure."]),
        ("猫です。犬です！", ["猫です。", "犬です！"]),
        ("Éric est là maintenant. Ça va bien ?", ["Éric est là maintenant.", "Ça va bien ?"]),
    ],
)
def test_paragraphs_become_sentences(site, text, sentences):
    (record,), _ = site(f"<meta charset=utf-8><p>{text}</p>")
    assert reported(record) == sentences


def test_a_page_of_open_brackets_is_refused():
    with pytest.raises(BadValue, match="brackets"):
        MarkdownReader.parse(b"[\n\n" * 20_000)


def test_options_that_make_no_sense_are_named(make):
    make.file("x.html", "<p>x</p>")
    for option, value in (("max_uses", 0), ("max_aspect", 0.5), ("min_side", -1), ("max_words", 3), ("colour", 1)):
        with pytest.raises(UserError, match=option):
            open_reader(make.root, "web", **{option: value})


def test_without_lxml_the_extra_is_named(make, monkeypatch):
    make.file("x.html", "<p>x</p>")
    monkeypatch.setitem(sys.modules, "lxml.etree", None)
    with pytest.raises(UserError, match=r"lcl\[data\]") as caught:
        list(open_reader(make.root).records())
    assert caught.value.code == "missing_extra"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
