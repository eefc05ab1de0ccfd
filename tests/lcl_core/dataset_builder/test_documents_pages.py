"""Pages in reading order."""

from __future__ import annotations

import pytest

from lcl_core.dataset_builder.documents import PageImage, PageText, page_items

pytest.importorskip("lxml")


def test_texts_captions_and_pictures_stand_in_their_order() -> None:
    html = """<body><h1>The pump<a class="headerlink">¶</a></h1>
      <nav>Home</nav><p>Open <b>the</b> lid.<br>Then <!-- not this --> look.</p>
      <figure><img src="a.png" alt=" the  lid "><figcaption>A lid</figcaption></figure>
      <div class="figure"><p class="title">Figure 2</p><img src="b.png"></div>
      <pre>x = 1</pre><p>1 2 3</p><p>End</p></body>"""
    assert page_items(html) == [
        PageText("The pump"),
        PageText("Open the lid."),
        PageText("Then look."),
        PageImage("a.png", "the lid"),
        PageText("A lid", caption=True),
        PageText("Figure 2", caption=True),
        PageImage("b.png"),
        PageText("End"),
    ]


@pytest.mark.parametrize("html", ["", "   ", "<!-- nothing -->"])
def test_what_is_no_page_has_nothing(html: str) -> None:
    assert page_items(html) == []
