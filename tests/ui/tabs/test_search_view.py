"""HTML of hits and of one image."""

from __future__ import annotations

import pytest

from ui.tabs.search_view import draw_detail, draw_texts, link_to


def test_what_is_drawn_of_an_image_cannot_break_out() -> None:
    evil = {"id": '"><b>', "captions": ["<script>"], "labels": {"<i>": '"x"'}}
    drawn = draw_detail("col_1", evil, [], [], {"<i>": ['"x"']})
    assert "<script>" not in drawn
    assert "<b>" not in drawn
    assert 'aria-label="Only images with &lt;i&gt; &quot;x&quot;"' in drawn
    assert link_to("a b", q="x&y") == "?collection=a%20b&q=x%26y"


def test_where_captions_have_no_vectors_similar_ones_are_not_offered() -> None:
    item = {"id": "i1", "captions": ["an ant"], "labels": {}}
    assert "Similar texts" in draw_detail("col_1", item, [], [], {})
    assert "Similar texts" not in draw_detail("col_1", item, [], None, {})


@pytest.mark.parametrize("written", ['["red", "new"]', "red; new", "red"])
def test_the_members_of_a_set_are_filters_each(written: str) -> None:
    item = {"id": "i1", "labels": {"tags": written, "size": "[5"}}
    drawn = draw_detail("col_1", item, [], [], {"tags": ["red", "green"], "size": ["1"]})
    assert drawn.count("Only such images") == 1
    assert 'aria-label="Only images with tags red"' in drawn
    assert "[5" in drawn
    assert ("<i>tags</i> new" in drawn) == written.startswith("["), "a member without a filter is shown"


def test_a_text_that_is_too_long_for_an_address_is_drawn_without_a_link() -> None:
    hits = [{"text": "ant " * 20, "score": 0.5}, {"text": "bee " * 2000, "score": 0.5}]
    drawn = draw_texts("col_1", hits, searches=False)
    assert drawn.count("href=") == 1
    assert "bee bee" in drawn
