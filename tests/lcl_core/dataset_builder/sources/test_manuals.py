"""Pages of manuals as they were written."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from lcl_core.dataset_builder.documents import hash_fraction
from lcl_core.dataset_builder.sources import SOURCES
from lcl_core.dataset_builder.sources.manuals import MANUALS, VAL

pytest.importorskip("lxml")
GIMP = SOURCES["gimp"]
ROOT = "usr/share/gimp/3.0/help/en"
WORDS = "Here are quite a few words that say nothing much at all."


def page(*images: str, text: str = WORDS) -> str:
    shown = "".join(f'<p>{text}</p><img src="{image}" alt="see">' for image in images)
    return f"<html><head><title>x</title></head><body>{shown}</body></html>"


def test_pages_keep_their_images_but_for_icons(kit: Any) -> None:
    files: dict[str, bytes | str] = {
        f"{ROOT}/a.html": page("images/one.png?x#y", "images/note.png", "images/tiny.png", "images/rule.png"),
        f"{ROOT}/b.html": page("images/packed.png"),
        f"{ROOT}/c.html": page("http://x.org/a.png", f"{'../' * 8}secret.png", "/etc/x.png", "images/gone.png"),
        f"{ROOT}/d.html": "<body><p>No images here.</p></body>",
        f"{ROOT}/e.html": "no page at all",
        f"{ROOT}/images/one.png": kit.draw_image("red", (300, 200)),
        f"{ROOT}/images/note.png": kit.draw_image("blue"),
        f"{ROOT}/images/tiny.png": kit.draw_image("green", (20, 20)),
        f"{ROOT}/images/rule.png": kit.draw_image("black", (280, 33)),
        f"{ROOT}/images/packed.png.gz": gzip.compress(kit.draw_image("gold")),
    }
    files |= {f"{ROOT}/more{number}.html": page("images/note.png") for number in range(5)}
    (kit.root / "secret.png").write_bytes(kit.draw_image("red"))
    built = GIMP.build(kit.source_files(GIMP, {"gimp-help-en": files}))
    assert built.pairs == ()
    found = {document.url: document for document in built.documents}
    assert set(found) == {f"gimp:{ROOT}/a.html#0", f"gimp:{ROOT}/b.html#0"}
    (placed,) = found[f"gimp:{ROOT}/a.html#0"].images
    assert (placed.image, placed.sentence, placed.before, placed.alt) == ("gimp/en/images/one.webp", 0, 1, "see")
    assert [each.image for each in found[f"gimp:{ROOT}/b.html#0"].images] == ["gimp/en/images/packed.webp"]
    for document in built.documents:
        name = document.url.removeprefix("gimp:").removesuffix("#0")
        assert document.split == ("val" if hash_fraction(f"doc:{name}") < VAL else "train")
        assert document.licence == "GFDL-1.2+ no invariants"


def test_an_image_on_five_pages_is_an_image_and_on_six_an_icon(kit: Any) -> None:
    files: dict[str, bytes | str] = {f"{ROOT}/{number}.html": page("n.png") for number in range(5)}
    files[f"{ROOT}/n.png"] = kit.draw_image("blue")
    assert len(GIMP.build(kit.source_files(GIMP, {"gimp-help-en": files})).documents) == 5
    files[f"{ROOT}/5.html"] = page("n.png")
    assert GIMP.build(kit.source_files(GIMP, {"gimp-help-en": files})).documents == []


def test_of_a_page_the_main_part_counts(kit: Any) -> None:
    source = SOURCES["openshot"]
    root = "usr/share/doc/openshot-qt/html"
    menu = "<ul><li>A menu that has nothing to do with it</li></ul>"
    html = f'<html><body>{menu}<div role="main"><p>{WORDS}</p><img src="a.png"></div></body></html>'
    files = {f"{root}/deep/a.html": html, f"{root}/deep/a.png": kit.draw_image("red")}
    (document,) = source.build(kit.source_files(source, {"openshot-qt-doc": files})).documents
    assert document.sentences == (WORDS,)
    assert document.images[0].image == "openshot/deep/a.webp"


def test_each_manual_unpacks_its_pages() -> None:
    for manual in MANUALS:
        start = manual.pages.partition("*")[0]
        assert any(part.startswith(start) or start.startswith(part) for part in manual.package.parts), manual.name
