"""The map of the Embed tab as the page's server draws it, and the details beside it."""

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
from ui.tabs.embed import EmbedTab, draw_map
from ui.tabs.search_query import MAX_LABEL_VALUES

LABELS = {"kind": ["a", "b"], "file": [str(i) for i in range(MAX_LABEL_VALUES + 1)], "category": ["x"]}
FOUND = {"id": "col_1", "images": 3, "changes": 7, "labels": LABELS, "text_vectors": True}
ITEM = {"id": "img_1", "caption": "a fox", "captions": ["a fox"], "labels": {"kind": "a"}}


@pytest.fixture
def tab(service: Any) -> EmbedTab:
    hits = {"hits": [{"id": "img_2", "score": 0.5, "caption": "a cat", "text": 'a "small" cat'}]}
    return EmbedTab(service(collection=FOUND, item=ITEM, search=hits))


def request_of(**parameters: str) -> Any:
    return SimpleNamespace(query_params=parameters, cookies={})


def pick(value: str) -> Any:
    return SimpleNamespace(pick=value)


def view_of(drawn: str) -> dict[str, str]:
    """Parameters of the address."""
    found: dict[str, str] = json.loads(unescape(re.findall('data-view="(.*?)"', drawn)[0]))
    return found


def test_a_label_with_few_values_colours_the_map(tab: EmbedTab) -> None:
    picker, method, links, drawn = tab.load_map("col_1", "kind")
    assert method == "pca"
    assert [value for _, value in picker["choices"]] == ["category", "kind"]
    assert 'data-label="kind"' in drawn
    assert 'data-label="category"' in tab.load_map("col_1", "file")[-1], "the preferred one instead"
    assert "vectors/col_1.npy" in links


def test_an_address_chooses_the_colour(tab: EmbedTab) -> None:
    _, picker, _, _, drawn, _ = tab.open_address(request_of(tab="embed", collection="drawings", colour="kind"))
    assert picker["value"] == "kind"
    assert 'data-label="kind"' in drawn


def test_a_changed_collection_has_a_map_of_another_address() -> None:
    assert 'data-source="map/col_1?version=col_1-7&amp;method=pca"' in draw_map("col_1", None, FOUND)
    assert 'data-source="map/col_1?version=col_1-8&amp;method=pca"' in draw_map("col_1", None, FOUND | {"changes": 8})


def test_images_are_arranged_by_their_neighbours_where_that_is_chosen_or_addressed(tab: EmbedTab) -> None:
    drawn = tab.draw_map("col_1", "kind", "tsne")
    assert 'data-source="map/col_1?version=col_1-7&amp;method=tsne"' in drawn
    assert "Arranging the images by their neighbours" in drawn
    assert "&quot;arrange&quot;: &quot;tsne&quot;" in drawn
    _, _, method, _, drawn, _ = tab.open_address(request_of(tab="embed", collection="drawings", arrange="tsne"))
    assert method == "tsne"
    assert "method=tsne" in drawn
    assert tab.load_map("col_1", "kind", "<b>")[1] == "pca", "an address may say anything"


def test_an_empty_collection_says_so() -> None:
    assert "has no image" in draw_map("col_1", None, FOUND | {"images": 0})


def test_names_are_escaped() -> None:
    drawn = draw_map('"><b>', '"><i>', FOUND)
    assert "<b>" not in drawn
    assert "<i>" not in drawn


def test_details_lead_to_searches_by_links(tab: EmbedTab) -> None:
    drawn = tab.follow(PageSelection(0), 1, pick("image:col_1:img_1"))[0]
    assert 'href="?collection=col_1&amp;like=img_1&amp;mode=both"' in drawn
    assert 'href="?collection=col_1&amp;q=a%20%22small%22%20cat"' in drawn
    assert 'data-pick="image:col_1:img_2"' in drawn
    assert 'data-pick="near:' not in drawn
    assert 'data-pick="label:' not in drawn
    assert tab.follow(PageSelection(0), 1, pick("close:")) == ("", "")


def test_tags_of_selected_images_leave_map_and_details(tab: EmbedTab) -> None:
    tab.client.answers["change_labels"] = 2
    change = json.dumps({"text": "kept", "button": "add", "items": ["img_1", "img_2"]})
    detail, said = tab.follow(PageSelection(0), 1, pick(f"tag:col_1:{change}"))
    assert detail == gr.skip()
    assert "2 images gained the tag kept." in said


def test_details_that_were_opened_last_are_shown(tab: EmbedTab) -> None:
    opened, newer = PageSelection(0), []

    def item(_: str, name: str) -> dict[str, Any]:
        if name == "img_1" and not newer:
            newer.append(tab.follow(opened, 2, pick("image:col_1:img_2")))
        return ITEM | {"id": name, "captions": [name]}

    tab.client.answers["item"] = item
    assert tab.follow(opened, 1, pick("image:col_1:img_1")) == (gr.skip(), gr.skip())
    assert '<h2 tabindex="-1">img_2' in newer[0][0]
    assert tab.follow(opened, 1, pick("image:col_1:img_1"))[0] == gr.skip(), "it was pressed first and arrived late"
    assert tab.close(opened, 3) == ""
    assert tab.follow(opened, 2, pick("image:col_1:img_2"))[0] == gr.skip(), "another collection was chosen"


def test_a_tag_is_reported_while_other_details_are_opened(tab: EmbedTab) -> None:
    opened = PageSelection(0)

    def change_labels(*_: Any, **__: Any) -> int:
        opened.current = 2
        return 1

    tab.client.answers["change_labels"] = change_labels
    change = json.dumps({"text": "kept", "button": "add", "items": ["img_1"]})
    detail, said = tab.follow(opened, 1, pick(f"tag:col_1:{change}"))
    assert (detail, "gained the tag kept" in said) == (gr.skip(), True)


def test_an_address_names_a_collection_an_image_and_a_colour(tab: EmbedTab) -> None:
    collection, _, _, _, drawn, detail = tab.open_address(
        request_of(tab="embed", collection="drawings", item="img_1", colour="kind")
    )
    assert collection == "col_1"
    assert 'data-label="kind"' in drawn
    assert "a fox" in detail
    assert tab.open_address(request_of(tab="embed", collection="drawings"))[-1] == ""


def test_a_first_visit_draws_one_map_and_a_later_one_keeps_it(tab: EmbedTab) -> None:
    tab.client.answers["collections"] = [{"id": "col_1", "name": "drawings", "images": 2}]
    tab.client.answers["encoders"] = tab.client.answers["encoder_figures"] = []
    visit = {"tab": "embed", "colour": "kind", "arrange": "tsne"}
    picker, _, method, _, drawn, _ = tab.open(None, request_of(**visit))
    assert picker["value"] == "col_1"
    assert method == "tsne"
    assert 'data-label="kind"' in drawn
    assert "method=tsne" in drawn
    picker, *unchanged = tab.open("col_1", request_of())
    assert "value" not in picker
    assert unchanged == [gr.skip()] * 5
    picker, _, method, *_ = tab.open("col_1", request_of(**visit, collection="drawings"))
    assert (picker["value"], method) == ("col_1", "tsne")


def test_an_address_of_no_collection_says_so_and_chooses_none(service: Any, away: Exception) -> None:
    tab = EmbedTab(service(collection=ApiError(404, "not_found", "there is no collection 'x'")))
    chosen, *_, drawn, _ = tab.open_address(request_of(tab="embed", collection="x"))
    assert ("There is no collection" in drawn, chosen) == (True, None), "the next opening draws the map of another one"
    tab.client.answers["collection"] = away
    chosen, *_, drawn, _ = tab.open_address(request_of(tab="embed", collection="x", arrange="tsne"))
    assert ("no answer from" in drawn, "There is no collection" in drawn, chosen) == (True, False, gr.skip())
    assert view_of(drawn) == {"collection": "x", "arrange": "tsne"}


def test_an_opening_that_failed_is_tried_again_and_keeps_the_map_on_show(tab: EmbedTab, away: Exception) -> None:
    tab.client.answers |= {"collections": away}
    address = request_of(tab="embed", collection="col_1", at="0,0,4")
    problem = tab.open(None, address)[4]
    assert "data-reopen" in problem
    assert view_of(problem) == {"collection": "col_1", "at": "0,0,4"}
    assert tab.open("col_1", address) == (gr.skip(),) * 6
    assert tab.open("col_1", request_of(tab="embed")) == (gr.skip(),) * 6
    assert "data-reopen" in tab.open("col_2", address)[4], "the map on show is not that of the address"
    tab.client.answers["collections"] = [{"id": "col_1", "images": 2}]
    picker, *_, drawn, _ = tab.navigate(None, request_of(tab="embed"))
    assert (picker["value"], "lcl-map" in drawn) == ("col_1", True)
    assert tab.navigate("col_1", request_of(tab="embed")) == (gr.skip(),) * 6


def test_an_address_of_a_collection_that_the_menu_lacks_brings_new_choices(tab: EmbedTab) -> None:
    tab.client.answers |= {"encoders": [{"id": "enc_1", "name": "one"}], "encoder_figures": []}
    tab.client.answers["collections"] = [{"id": "col_1", "images": 2}]
    picker, *_, drawn, _ = tab.navigate("col_0", request_of(tab="embed", collection="drawings"))
    assert [value for _, value in picker["choices"]] == ["col_1"]
    assert (picker["value"], "lcl-map" in drawn) == ("col_1", True)


def test_a_collection_without_labels_empties_their_menu(tab: EmbedTab) -> None:
    tab.client.answers["collection"] = FOUND | {"labels": {}}
    for collection in ("col_1", None):
        assert tab.load_map(collection, "kind")[0]["value"] is None


def test_a_map_that_failed_has_its_address_and_is_tried_again(tab: EmbedTab, away: Exception) -> None:
    tab.client.answers["collection"] = away
    problem = tab.draw_map("col_2", "kind", "tsne")
    assert "data-reopen" in problem
    assert view_of(problem) == {"collection": "col_2", "colour": "kind", "arrange": "tsne"}
