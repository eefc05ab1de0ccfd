"""Pages of one search against a service that answers from memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr

from api.client import ApiError
from ui.common import TagChange
from ui.tabs.search import SearchTab
from ui.tabs.search_query import TEXT_TO_IMAGES, SearchRunner, filter_labels


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


def test_where_captions_have_no_vectors_none_are_searched_and_the_way_out_is_shown(service: Any) -> None:
    refused = ApiError(422, "no_text_encoder", "text: collection 'x' was made with an encoder of images alone")
    found = {"id": "col_1", "labels": {}, "label_types": {}, "text_vectors": False}
    hits = {"hits": [{"id": "i2", "score": 0.5, "caption": "a bee"}], "took_ms": 1}
    client = service(collection=found, item={"id": "i1", "labels": {}}, search=hits)
    runner = SearchRunner(client)
    assert "i2" in runner.details("col_1", "i1")
    assert [each.get("target", "images") for each in client.arguments_of("search")] == ["images"]

    def search(_: str, *, hybrid: bool = False, **__: Any) -> dict[str, Any]:
        if not hybrid:
            raise refused
        return hits

    client.answers["search"] = search
    shown = runner.run("col_1", "“ant”", "images", 12, text="ant").html
    assert ("i2" in shown, "“ant”, by captions too" in shown) == (True, True)
    away = {"text": "ant", "item": "i1", "weights": {"text": -0.5, "item": 0.5}}
    for target, query in (("images", away), ("texts", {"item": "i1"})):
        shown = runner.run("col_1", "this image", target, 12, **query).html
        assert "The encoder of this collection reads images alone" in shown


def test_words_without_a_collection_are_searched_in_the_one_that_was_used_last(service: Any) -> None:
    collections = [
        {"id": name, "name": name, "images": 1, "encoder_id": None, "labels": {}, "label_types": {}}
        for name in ("newest", "used")
    ]
    client = service(
        collections=collections, collection=collections[1], encoders=[], search={"hits": [], "took_ms": 1}
    )  # fmt: skip
    request: Any = SimpleNamespace(query_params={"q": "ant"}, cookies={"lcl-collection": "used"})
    assert SearchTab(client).open_address(None, None, request).collection["value"] == "used"
    assert [arguments[0] for name, arguments, _ in client.calls if name == "search"] == ["used"]


def test_a_tag_is_changed(service: Any) -> None:
    client = service(change_labels=299)
    change = TagChange("red", [f"i{place}" for place in range(300)], remove=False)
    assert "299 images gained the tag red." in SearchRunner(client).change_tags("col_1", change)
    (arguments,) = client.arguments_of("change_labels")
    assert (arguments["add"], "remove" in arguments) == ({"tags": ["red"]}, False)


def test_what_was_changed_before_an_error_is_said(service: Any) -> None:
    def change_labels(*_: Any, on_progress: Any, **__: Any) -> int:
        on_progress(256, 300)
        raise ApiError(503, "busy", "try again")

    change = TagChange("red", [f"i{place}" for place in range(300)], remove=True)
    said = SearchRunner(service(change_labels=change_labels)).change_tags("col_1", change)
    assert ("The tags of only 256 of 300 images were changed" in said, "try again" in said) == (True, True)


def test_labels_with_few_values_come_first_and_those_that_select_nothing_are_left_out() -> None:
    labels = {
        "split": ["", "test"],
        "one": ["x"],
        "concept": ["c", "a", "b"],
        "group": ["", "y", "z"],
        "n": ["x"] * 301,
    }
    assert filter_labels(labels) == {"concept": ["c", "a", "b"], "group": ["y", "z"], "split": ["test"]}


def test_words_that_are_too_long_for_an_address_are_searched_without_a_link(service: Any) -> None:
    """Each event sends the address, and a gateway refuses one above 8 KB."""
    tab = SearchTab(service(search={"hits": [{"id": "i1", "score": 0.5, "caption": "an ant"}], "took_ms": 1}))
    short, long = (tab.search(TEXT_TO_IMAGES, "col_1", "蟻" * count, None, 50, [], 12)[0] for count in (300, 400))
    assert "&quot;q&quot;" in short
    assert ">Link</a>" in short
    assert "&quot;q&quot;" not in long
    assert ">Link</a>" not in long
    assert "closest to “蟻蟻" in long
