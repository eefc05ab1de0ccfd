"""Pages of manuals: the items of the HTML parser as documents."""

from __future__ import annotations

import pytest

from lcl_core.data.formats.html.parser import parse_page
from lcl_core.dataset_builder.documents import PlacedImage, build_documents

pytest.importorskip("lxml")


def test_texts_captions_and_images_keep_their_order() -> None:
    html = """<body><h1>The pump<a class="headerlink">¶</a></h1>
      <nav>Home</nav><p>Open <b>the</b> lid as far as it goes.<br>Then <!-- not this --> look at it closely.</p>
      <figure><img src="a.png" alt=" the  lid "><figcaption>A lid</figcaption></figure>
      <div class="figure"><p class="title">Figure 2</p><img src="b.png"></div><p>That is all.</p></body>"""
    ((texts, images),) = build_documents(parse_page(html).items)
    assert texts == [
        "The pump",
        "Open the lid as far as it goes.",
        "Then look at it closely.",
        "A lid",
        "Figure 2",
        "That is all.",
    ]
    assert images == [PlacedImage("a.png", 3, 3, "the lid"), PlacedImage("b.png", 4, 4)]


@pytest.mark.parametrize("html", ["", "   ", "<!-- nothing -->"])
def test_an_empty_page_has_no_document(html: str) -> None:
    assert list(build_documents(parse_page(html).items)) == []
