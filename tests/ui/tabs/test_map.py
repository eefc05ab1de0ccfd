"""The map as the page's server draws it, and the details beside it."""

from __future__ import annotations

import json
import re
from html import unescape
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from api.client import ApiError
from ui.common import PageSelection
from ui.tabs.map import MapTab, draw_map

FOUND = {"id": "col_1", "name": "drawings", "images": 3, "changes": 7, "labels": {}, "text_vectors": True}
ITEM = {"id": "img_1", "caption": "a fox", "captions": ["a fox"], "labels": {"kind": "a"}}
CHOICES = [("drawings", "col_1"), ("photos", "col_2")]


@pytest.fixture
def tab(service: Any) -> MapTab:
    hits = {"hits": [{"id": "img_2", "score": 0.5, "caption": "a cat", "text": 'a "small" cat'}]}
    collections = [{"id": id, "name": name, "images": 2} for name, id in CHOICES]
    answers = {"collections": collections, "encoders": [], "encoder_figures": [], "search": hits}
    return MapTab(service(collection=FOUND, item=ITEM, **answers))


def request_of(**parameters: str) -> Any:
    return SimpleNamespace(query_params=parameters, cookies={})


def open_map(tab: MapTab, shown: str | None, **parameters: str) -> tuple[Any, Any, Any]:
    return tab.open(PageSelection(0), 1, shown, request_of(tab="map", **parameters))


def pick(value: str) -> Any:
    return SimpleNamespace(pick=value)


def view_of(drawn: str) -> dict[str, str]:
    """Parameters of the address."""
    found: dict[str, str] = json.loads(unescape(re.findall('data-view="(.*?)"', drawn)[0]))
    return found


def test_a_changed_collection_has_a_map_of_another_address() -> None:
    assert 'data-source="map/col_1?version=col_1-7&amp;method=tsne"' in draw_map(CHOICES, FOUND)
    assert 'data-source="map/col_1?version=col_1-8&amp;method=tsne"' in draw_map(CHOICES, FOUND | {"changes": 8})


def test_neighbours_lead_to_principal_axes_and_back(tab: MapTab) -> None:
    _, drawn, _ = open_map(tab, None, collection="drawings", arrange="<b>")
    assert 'href="?tab=map&amp;collection=col_1&amp;arrange=pca">principal axes' in drawn, "an address may say anything"
    _, drawn, _ = open_map(tab, "col_1", collection="drawings", arrange="pca")
    assert ("method=pca" in drawn, view_of(drawn)) == (True, {"collection": "col_1", "arrange": "pca"})
    assert 'href="?tab=map&amp;collection=col_1">neighbours' in drawn


def test_an_empty_collection_says_so() -> None:
    drawn = draw_map(CHOICES, FOUND | {"images": 0})
    assert ("has no image" in drawn, 'data-source=""' in drawn, "photos" in drawn) == (True, True, True)


def test_names_are_escaped() -> None:
    assert "<b>" not in draw_map([('"><b>', '"><b>')], FOUND | {"id": '"><b>'})


def test_details_lead_to_searches_by_links(tab: MapTab) -> None:
    drawn = tab.follow(PageSelection(0), 1, pick("image:col_1:img_1"))[0]
    assert 'href="?collection=drawings&amp;like=img_1"' in drawn
    assert 'href="?q=a%20%22small%22%20cat&amp;collection=drawings"' in drawn
    assert 'data-pick="image:col_1:img_2"' in drawn
    assert 'data-pick="near:' not in drawn
    assert 'data-pick="label:' not in drawn
    assert tab.follow(PageSelection(0), 1, pick("close:")) == ("", "")


def test_tags_of_selected_images_leave_map_and_details(tab: MapTab) -> None:
    tab.client.answers["change_labels"] = 2
    change = json.dumps({"text": "kept", "button": "add", "items": ["img_1", "img_2"]})
    detail, said = tab.follow(PageSelection(0), 1, pick(f"tag:col_1:{change}"))
    assert detail == gr.skip()
    assert "2 images gained the tag kept." in said


def test_details_that_were_opened_last_are_shown(tab: MapTab) -> None:
    opened, newer = PageSelection(0), []

    def item(_: str, name: str) -> dict[str, Any]:
        if name == "img_1" and not newer:
            newer.append(tab.follow(opened, 2, pick("image:col_1:img_2")))
        return ITEM | {"id": name, "captions": [name]}

    tab.client.answers["item"] = item
    assert tab.follow(opened, 1, pick("image:col_1:img_1")) == (gr.skip(), gr.skip())
    assert '<h2 tabindex="-1">img_2' in newer[0][0]
    assert tab.follow(opened, 1, pick("image:col_1:img_1"))[0] == gr.skip(), "it was pressed first and arrived late"
    tab.open(opened, 3, None, request_of(tab="map", collection="drawings"))
    assert tab.follow(opened, 2, pick("image:col_1:img_2"))[0] == gr.skip(), "another collection was chosen"


def test_a_tag_is_reported_while_other_details_are_opened(tab: MapTab) -> None:
    opened = PageSelection(0)

    def change_labels(*_: Any, **__: Any) -> int:
        opened.current = 2
        return 1

    tab.client.answers["change_labels"] = change_labels
    change = json.dumps({"text": "kept", "button": "add", "items": ["img_1"]})
    detail, said = tab.follow(opened, 1, pick(f"tag:col_1:{change}"))
    assert (detail, "gained the tag kept" in said) == (gr.skip(), True)


def test_an_address_names_a_collection_and_an_image(tab: MapTab) -> None:
    collection, drawn, detail = open_map(tab, None, collection="drawings", item="img_1")
    assert (collection, "a fox" in detail) == ("col_1", True)
    assert 'collection=col_1" selected>drawings' in drawn
    assert open_map(tab, None, collection="drawings")[2] == ""


def test_a_first_visit_draws_a_map_and_a_later_one_keeps_it(tab: MapTab) -> None:
    assert open_map(tab, None)[0] == "col_1"
    assert open_map(tab, "col_1") == (gr.skip(),) * 3
    tab.client.answers["collections"] = []
    assert "No collection yet" in open_map(tab, "col_1")[1]


def test_an_address_of_no_collection_says_so(tab: MapTab) -> None:
    tab.client.answers["collection"] = ApiError(404, "not_found", "there is no collection 'x'")
    collection, drawn, _ = open_map(tab, "col_1", collection="x")
    assert ("There is no collection" in drawn, collection) == (True, None), "the next opening draws another one"


def test_an_opening_that_failed_is_tried_again_and_keeps_the_map_on_show(tab: MapTab, away: Exception) -> None:
    tab.client.answers |= {"collections": away}
    problem = open_map(tab, None, collection="col_1", at="0,0,4")[1]
    assert "data-reopen" in problem
    assert view_of(problem) == {"collection": "col_1", "at": "0,0,4"}
    assert open_map(tab, "col_1", collection="col_1") == (gr.skip(),) * 3
    assert open_map(tab, "col_1") == (gr.skip(),) * 3
    assert "data-reopen" in open_map(tab, "col_2", collection="col_1")[1], "not the map of the address"
