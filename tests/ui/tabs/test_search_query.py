"""Pages of one search against a service that answers from memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr

from ui.tabs.search import SearchTab
from ui.tabs.search_query import TEXT_TO_IMAGES


def test_hits_and_the_button_stay_if_more_cannot_be_fetched(service: Any, away: Exception) -> None:
    hits = [{"id": f"i{place}", "score": 0.5, "caption": "an ant"} for place in range(12)]
    client = service(search={"hits": hits, "took_ms": 1})
    tab = SearchTab(client)
    query = tab.search(TEXT_TO_IMAGES, "col_1", "ant", None, 50, [], 12)[1]
    client.answers["search"] = away
    *kept, said = tab.show_more(query)
    assert (kept, "no answer from" in said) == ([gr.skip()] * 3, True)


def test_the_menu_says_how_conditions_are_written(service: Any) -> None:
    def example(**collection: Any) -> str | None:
        picker, _ = SearchTab(service(collection=collection)).labels("col_1", None)
        assert picker["visible"] == bool(collection["labels"]), "also where no value is offered"
        return picker["info"]

    years, types = [str(year) for year in range(400)], {"taken": "date", "year": "number", "tags": "set"}
    assert "taken>=2020-01-31" in str(example(labels={"year": years}, label_types=types))
    assert "hue!=red" in str(example(labels={"hue": ["red", "blue"]}, label_types={}))
    assert example(labels={}, label_types={}) is None


def test_words_without_a_collection_are_searched_in_the_one_that_was_used_last(service: Any) -> None:
    collections = [
        {"id": name, "name": name, "images": 1, "encoder_id": None, "labels": {}, "label_types": {}}
        for name in ("newest", "used")
    ]
    client = service(
        collections=collections, collection=collections[1], encoders=[], search={"hits": [], "took_ms": 1}
    )  # fmt: skip
    request: Any = SimpleNamespace(query_params={"q": "ant"}, cookies={"lcl-collection": "used"})
    assert SearchTab(client).open_address(None, None, request).collection == "used"
    assert [arguments[0] for name, arguments, _ in client.calls if name == "search"] == ["used"]
