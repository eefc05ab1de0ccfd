"""The Search tab's handlers against a service that answers from memory."""

from __future__ import annotations

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from api.client import ApiError
from ui.common import PageSelection, newest
from ui.tabs.search import OpenedSearch, SearchTab
from ui.tabs.search_query import (
    BOTH,
    IMAGE_TO_TEXTS,
    TEXT_TO_IMAGES,
    SearchRunner,
    filter_choices,
    parse_label_filter,
)
from ui.tabs.search_view import draw_results, label_choice

COLLECTION = {"id": "col_1", "name": "drawings", "images": 3, "label_types": {}, "text_vectors": True}
COLLECTION |= {"labels": {"hue": ["red", "blue"], "name": ["x"] * 301}}
HIT = {"id": "i1", "score": 0.91234, "caption": "an <ant>", "labels": {}}
RED, BLUE, BIG = label_choice("hue", "red"), label_choice("hue", "blue"), label_choice("size", "big")


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "mine.png"
    path.write_bytes(b"\x89PNG")
    return str(path)


class Request:
    """What Gradio gives of the address."""

    def __init__(self, **query: str) -> None:
        self.query_params = query
        self.cookies: dict[str, str] = {}


def test_it_asks_for_what_was_typed_and_draws_the_hits(service: Any) -> None:
    client = service(search={"hits": [HIT], "took_ms": 7.4})
    drawn, query, more = SearchTab(client).search(TEXT_TO_IMAGES, "col_1", "  ant ", None, 50, [], 12)
    assert client.arguments_of("search") == [{"target": "images", "k": 12, "offset": 0, "text": "ant"}]
    assert "an &lt;ant&gt;" in drawn
    assert "0.912" in drawn
    assert "7 ms in the service" in drawn
    assert 'href="?collection=col_1&amp;q=ant&amp;captions=0"' in drawn
    assert (query.about, more.visible) == ("“ant”", False)


def test_an_images_bytes_are_sent(service: Any, image: str) -> None:
    client = service(search={"hits": [{"id": "t1", "score": 0.5, "text": "words"}], "took_ms": 1})
    drawn = SearchTab(client).search(IMAGE_TO_TEXTS, "col_1", "not asked for", image, 50, [], 24)[0]
    assert client.arguments_of("search") == [{"target": "texts", "k": 24, "offset": 0, "image": b"\x89PNG"}]
    assert 'data-pick="text:col_1:words"' in drawn
    assert "?collection" not in drawn, "an address cannot carry an image"


@pytest.mark.parametrize(("words", "weights"), [(30, (0.3, 0.7)), (-25, (-0.25, 0.75)), (100, (1.0, 0.0))])
def test_text_and_image_are_weighed(service: Any, image: str, words: float, weights: tuple[float, float]) -> None:
    client = service(search={"hits": [HIT], "took_ms": 1})
    drawn = SearchTab(client).search(BOTH, "col_1", "red", image, words, [], 24)[0]
    (query,) = client.arguments_of("search")
    assert (query["text"], query["image"], query["target"]) == ("red", b"\x89PNG", "images")
    assert (query["weights"]["text"], query["weights"]["image"]) == pytest.approx(weights)
    assert ("your image away from “red”" if words < 0 else "your image and “red”") in drawn


def test_of_text_and_image_one_may_be_missing(service: Any, image: str) -> None:
    client = service(search={"hits": [HIT], "took_ms": 1})
    tab = SearchTab(client)
    tab.search(BOTH, "col_1", "red", None, 50, [], 24)
    tab.search(BOTH, "col_1", " ", image, 50, [], 24)
    assert [set(query) - {"target", "k", "offset"} for query in client.arguments_of("search")] == [{"text"}, {"image"}]
    assert "An image, and words about it" in tab.search(BOTH, "col_1", "", None, 50, [], 24)[0]
    assert tab.search_again(BOTH, "col_1", "", None, 50, [], 24) == (gr.skip(),) * 3


def test_labels_that_were_chosen_are_asked_for(service: Any) -> None:
    client = service(search={"hits": [HIT], "took_ms": 1})
    SearchTab(client).search(TEXT_TO_IMAGES, "col_1", "ant", None, 50, [RED, BIG, BLUE], 24)
    assert client.arguments_of("search")[0]["where"] == {"hue": ["red", "blue"], "size": ["big"]}
    assert parse_label_filter(None) == {}


def test_what_can_be_chosen_are_labels_with_few_values(service: Any) -> None:
    picker, kept = SearchTab(service(collection=COLLECTION)).labels("col_1", [RED, BIG])
    assert kept == [RED]
    assert [tuple(choice) for choice in picker["choices"]] == [("hue: blue", BLUE), ("hue: red", RED)]
    assert (picker["value"], picker["visible"]) == ([RED], True)


def test_ranges_and_members_that_were_typed_are_asked_for_and_kept(service: Any) -> None:
    where = {
        "year": {"gte": "1990", "lt": "2000"},
        "tags": {"all": ["new"], "none": ["old"], "any": ["red"]},
        "hue": ["red"],
    }
    typed = [RED, "year>=1990", "year < 2000", "tags+=new", "tags!=old", label_choice("tags", "red")]
    client = service(search={"hits": [HIT], "took_ms": 1}, collection=COLLECTION | {"labels": where})
    drawn = SearchTab(client).search(TEXT_TO_IMAGES, "col_1", "ant", None, 50, typed, 24)[0]
    assert client.arguments_of("search")[0]["where"] == where
    assert parse_label_filter(filter_choices(json.dumps(where))) == where
    assert "&quot;gte" in drawn, "it is a part of the address"
    assert SearchTab(client).labels("col_1", [*typed, "month>3", BIG])[1] == [
        each for each in typed if each not in (RED, label_choice("tags", "red"))
    ], "values that the menu lacks are dropped, conditions on labels of the collection are kept"


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        (["old"], "is no filter; write label=value"),
        (['["a", 1'], "is no filter; write label=value"),
        (["[1, 2]"], "is no filter; write label=value"),
        (['"ab"'], "is no filter; write label=value"),
        (["year>1", "year>2"], "year&gt; is given twice"),
        (["year>1", "year=2"], "both a value and a range"),
    ],
)
def test_a_filter_that_cannot_be_read_says_so_and_nothing_is_searched(service: Any, typed: list[str], why: str) -> None:
    client = service(search={"hits": [HIT], "took_ms": 1})
    tab = SearchTab(client)
    assert why in tab.search(TEXT_TO_IMAGES, "col_1", "ant", None, 50, typed, 24)[0]
    assert client.arguments_of("search") == []
    current = tab.search(TEXT_TO_IMAGES, "col_1", "ant", None, 50, [], 24)[1]
    assert why in tab.change_filter(typed, current)[0]


def test_words_of_captions_count_unless_the_address_says_otherwise(service: Any, image: str) -> None:
    found = {"hits": [HIT | {"text": "an ant"}], "took_ms": 1}
    client = service(search=found, collections=[COLLECTION], collection=COLLECTION)
    tab = SearchTab(client)
    drawn = tab.search(TEXT_TO_IMAGES, "col_1", "ant", None, 50, [], 24, True)[0]
    assert 'href="?collection=col_1&amp;q=ant"' in drawn
    assert "“ant”, by captions too" in drawn
    for more in ({}, {"captions": "1"}):
        opened = tab.open_address(None, None, Request(collection="col_1", q="ant", **more))
        assert (opened.hybrid.value, opened.hybrid.visible) == (True, True)
    tab.search(BOTH, "col_1", "red", image, 50, [], 24, True)
    assert [query.get("hybrid") for query in client.arguments_of("search")] == [True] * 4
    alone = tab.open_address(None, None, Request(collection="col_1", q="ant", captions="0"))
    assert not alone.hybrid.value
    assert "“ant”</em>" in alone.results
    client.calls.clear()
    tab.search(BOTH, "col_1", "red", image, -50, [], 24, True)
    tab.search(IMAGE_TO_TEXTS, "col_1", "red", image, 50, [], 24, True)
    assert [query.get("hybrid") for query in client.arguments_of("search")] == [None] * 2


def test_a_text_that_is_cut_is_said_to_be(service: Any) -> None:
    client = service(search={"hits": [HIT], "took_ms": 1, "text_limit": 77})
    drawn = SearchRunner(client).run("col_1", "“many words”", "images", 24, text="many words").html
    assert "The encoder reads 77 tokens of a text; the rest is cut." in drawn
    assert "rest is cut" not in draw_results("col_1", [HIT], "“x”", "images", "1 ms")


def test_other_labels_narrow_the_search_that_is_on_show_whatever_was_asked(service: Any) -> None:
    client = service(search={"hits": [HIT], "took_ms": 1})
    tab = SearchTab(client)
    query = tab.runner.run("col_1", "this image", "images", 12, item="i1").query
    drawn, narrowed, _ = tab.change_filter([RED], query)
    expected = {"target": "images", "k": 12, "offset": 0, "item": "i1", "where": {"hue": ["red"]}}
    assert client.arguments_of("search")[1] == expected
    assert "closest to this image" in drawn
    assert tab.change_filter([RED], narrowed) == tab.change_filter([], None) == (gr.skip(),) * 3


def test_another_collection_keeps_the_labels_that_it_has(service: Any) -> None:
    client = service(collection=COLLECTION, search={"hits": [HIT], "took_ms": 1})
    picker, _, query, _ = SearchTab(client).change_collection(TEXT_TO_IMAGES, "col_1", "ant", None, 50, [RED, BIG], 12)
    assert picker["value"] == [RED]
    assert query.where == client.arguments_of("search")[0]["where"] == {"hue": ["red"]}


def test_of_more_only_what_is_new_is_asked_for_while_there_is_more(service: Any) -> None:
    def search(_: str, k: int, offset: int, **__: Any) -> dict[str, Any]:
        return {"hits": [{**HIT, "id": f"i{place}"} for place in range(30)[offset : offset + k]], "took_ms": 1}

    client = service(search=search)
    tab = SearchTab(client)
    drawn, query, more = tab.search(TEXT_TO_IMAGES, "col_1", "ant", None, 50, [RED], 12)
    assert ("12 images" in drawn, more.visible) == (True, True)
    for shown, last in ((24, False), (30, True)):
        drawn, query, more, _ = tab.show_more(query)
        assert (f"{shown} images" in drawn, more.visible) == (True, not last)
        assert [f"col_1:i{place}" in drawn for place in (0, shown - 1)] == [True, True]
        assert drawn.index("col_1:i0") < drawn.index(f"col_1:i{shown - 1}")
    assert [(page["offset"], page["k"]) for page in client.arguments_of("search")] == [(0, 12), (12, 12), (24, 12)]
    assert all(page["where"] == {"hue": ["red"]} and page["text"] == "ant" for page in client.arguments_of("search"))
    drawn, query, _ = tab.change_filter([BLUE], query)
    assert "12 images" in drawn, "other labels begin anew"
    assert (client.arguments_of("search")[-1]["offset"], len(query.hits)) == (0, 12)


def test_before_the_picker_is_filled_the_newest_collection_is_taken(service: Any) -> None:
    client = service(search={"hits": [HIT], "took_ms": 1}, collections=[COLLECTION])
    assert "lcl-results" in SearchTab(client).search(TEXT_TO_IMAGES, None, "ant", None, 50, [], 12)[0]
    none = SearchTab(service(collections=[])).search(TEXT_TO_IMAGES, None, "ant", None, 50, [], 12)
    assert "No collection yet" in none[0]


def test_refusals_are_reported_in_words(service: Any, away: Exception) -> None:
    def drawn(**answers: Any) -> str:
        return SearchTab(service(**answers)).search(TEXT_TO_IMAGES, "c", "ant", None, 50, [], 12)[0]

    assert "no answer from" in drawn(search=away)
    assert "Nothing found" in drawn(search={"hits": [], "took_ms": 1})


def test_results_stay_when_the_tab_is_entered_again(service: Any) -> None:
    tab = SearchTab(service(collections=[COLLECTION], collection=COLLECTION))
    picker, bare, _, shown = tab.refresh("col_1", False)
    assert ("value" in picker, bare, shown) == (False, False, gr.skip()), "another may have been chosen meanwhile"
    picker, bare, _, shown = tab.refresh(None, True)
    assert (picker["value"], bare) == ("col_1", False)
    assert "What are you looking for" in shown


def test_the_empty_page_shows_how_far_the_first_collection_is(service: Any) -> None:
    run = {
        "state": "running", "spec": {"collection": "sample-drawings"},
        "progress": {"step": 2560, "total_steps": 6123, "seconds_left": 20.0},
    }  # fmt: skip
    client = service(collections=[], runs={"items": [run]})
    tab = SearchTab(client)
    _, bare, _, drawn, clock, found = tab.poll(None, True, None)
    assert (bare, found) == (True, False)
    assert clock == gr.skip()
    for part in ("Preparing sample-drawings", "2,560 of 6,123 images · 20 s left", 'aria-valuenow="42"'):
        assert part in drawn
    assert "No collection yet" not in drawn
    client.answers["runs"] = {"items": [{**run, "state": "failed"}]}
    assert "No collection yet" in tab.poll(None, True, None)[3]
    client.answers |= {"collections": [COLLECTION], "collection": COLLECTION}
    assert ("What are you looking for" in tab.poll(None, True, None)[3], tab.poll(None, True, None)[-1]) == (True, True)
    assert tab.poll("col_1", False, None)[:4] == (gr.skip(),) * 4


def test_an_address_opens_a_search_or_an_image(service: Any) -> None:
    client = service(
        collections=[COLLECTION], collection=COLLECTION, item={"id": "i1", "captions": ["ant"]},
        search={"hits": [{**HIT, "text": "words"}], "took_ms": 1},
    )  # fmt: skip
    tab = SearchTab(client)
    opened = tab.open_link(PageSelection(0), None, None, Request(collection="drawings", q="an ant"))
    assert (opened.collection["value"], opened.text.value, opened.detail) == ("col_1", "an ant", "")
    assert "closest to “an ant”" in opened.results
    opened = tab.open_link(PageSelection(0), None, None, Request(collection="drawings", item="i1"))
    assert "Chosen image" in opened.detail
    assert "What are you looking for" in opened.results, "there is no search to show"
    assert (
        "no collection &#x27;gone&#x27;"
        in tab.open_link(PageSelection(0), None, None, Request(collection="gone", q="ant")).results
    )
    for elsewhere in (Request(), Request(tab="caption", q="ant"), Request(tab="search")):
        assert tab.open_link(PageSelection(0), None, None, elsewhere) == OpenedSearch()


def test_an_address_has_all_of_a_search(service: Any) -> None:
    client = service(collections=[COLLECTION], collection=COLLECTION, search={"hits": [HIT], "took_ms": 1})
    client.answers["item_image"] = ApiError(404, "not_found", "gone")
    tab = SearchTab(client)
    asked = {"mode": "both", "q": "red", "like": "i1", "words": "-25", "where": '{"hue": ["red"]}', "k": "12"}
    opened = tab.open_address("upload.png", None, Request(**asked, collection="drawings"))
    (query,) = client.arguments_of("search")
    assert query == {
        "target": "images", "k": 12, "offset": 0, "text": "red", "item": "i1", "where": {"hue": ["red"]},
        "weights": {"text": -0.25, "item": 0.75},
    }  # fmt: skip
    assert (opened.mode, opened.words, opened.k, opened.anchor) == (BOTH, -25, 12, ("col_1", "i1"))
    assert opened.where["value"] == [RED]
    for parameter in ("&quot;like&quot;: &quot;i1&quot;", "&quot;words&quot;: &quot;-25&quot;", "«red»"):
        assert parameter in opened.results


@pytest.mark.parametrize("where", ["no", "[]", '{"hue": 3}', '{"size": ["big"]}'])
def test_an_address_that_is_no_search_does_no_harm(service: Any, where: str) -> None:
    client = service(collections=[COLLECTION], collection=COLLECTION, search={"hits": [HIT], "took_ms": 1})
    address = {"q": "ant", "where": where, "k": "-4", "words": "many", "mode": "none"}
    opened = SearchTab(client).open_address(None, None, Request(**address))
    assert (opened.mode, opened.k, opened.words) == (TEXT_TO_IMAGES, 24, 50)
    assert client.arguments_of("search") == [{"target": "images", "k": 24, "offset": 0, "text": "ant", "hybrid": True}]


def test_back_to_an_uploaded_image_searches_with_the_one_that_is_there(service: Any, image: str) -> None:
    client = service(collections=[COLLECTION], collection=COLLECTION, search={"hits": [HIT], "took_ms": 1})
    tab = SearchTab(client)
    assert "your image" in tab.open_address(image, None, Request(mode="images")).results
    assert client.arguments_of("search")[0]["image"] == b"\x89PNG"
    assert "Which image?" in tab.open_address(image, ("col_1", "i1"), Request(mode="images")).results


def test_an_image_is_looked_at_with_what_is_near_it(service: Any) -> None:
    hits = [{**HIT, "id": f"i{place}"} for place in range(9)]
    client = service(
        item={"id": "i1", "captions": ["an <ant>", "insect"], "labels": {"hue": "red", "name": "i"}, "split": "val"},
        collection=COLLECTION,
        search=lambda _, target="images", **__: {
            "hits": hits if target == "images" else [{"id": "t", "score": 0.5, "text": "words"}]
        },
    )
    drawn = SearchTab(client).runner.details("col_1", "i1")
    assert '<h2 tabindex="-1">an &lt;ant&gt;</h2>' in drawn
    assert 'data-pick="image:col_1:i1"' not in drawn, "it is not its own neighbour"
    assert drawn.count('data-pick="image:col_1:') == 8
    assert 'data-pick="text:col_1:words"' in drawn
    assert "label:col_1:[&quot;hue&quot;, &quot;red&quot;]" in drawn
    assert "label:col_1:[&quot;name" not in drawn, "too many values to choose by"
    gone = service(item=ApiError(404, "not_found", "the collection holds no item 'i1'"))
    assert "holds no item" in SearchTab(gone).runner.details("col_1", "i1")


def tag_event(collection: str, tag: str, *items: str, remove: bool = False) -> SimpleNamespace:
    change = json.dumps({"text": tag, "button": "remove" if remove else "add", "items": items})
    return SimpleNamespace(pick=f"tag:{collection}:{change}")


def test_tags_of_results_and_of_one_image_are_changed_and_can_be_filtered_by(service: Any) -> None:
    labels = {"label_types": {"tags": "set"}, "labels": {"tags": ["a: b"], "hue": ["red"]}, "text_vectors": True}
    hits = {"hits": [], "took_ms": 1}
    client = service(change_labels=2, collection=labels, item={"id": "i1", "labels": {}}, search=hits)
    tab = SearchTab(client)
    with gr.Blocks():
        tab.build()
    found = tab.follow(PageSelection(0), 1, PageSelection(0), [], 24, None, tag_event("col_1", " a: b ", "i1", "i2"))
    assert [each["add"] for each in client.arguments_of("change_labels")] == [{"tags": ["a: b"]}]
    assert "2 images gained the tag a: b." in found[tab.tagged]
    assert [value for _, value in found[tab.where]["choices"]] == [label_choice("tags", "a: b")], (
        "one member is a choice"
    )
    assert tab.detail not in found
    found = tab.follow(
        PageSelection(0), 1, PageSelection(0), [], 24, None, tag_event("col_1", "<b>", "i1", remove=True)
    )
    assert client.arguments_of("change_labels")[1]["remove"] == {"tags": ["<b>"]}
    assert "lost the tag &lt;b&gt;" in found[tab.tagged]
    assert "lcl-detail" in found[tab.detail]


def test_tags_that_the_service_refuses_leave_the_results(service: Any) -> None:
    labels = {"label_types": {}, "labels": {}}
    client = service(change_labels=ApiError(403, "forbidden", "this needs the role submitter"), collection=labels)
    tab = SearchTab(client)
    with gr.Blocks():
        tab.build()
    found = tab.follow(PageSelection(0), 1, PageSelection(0), [], 24, None, tag_event("col_1", "x", "i1", "i2"))
    assert "needs the role submitter" in found[tab.tagged]
    assert tab.results not in found


def test_of_searches_under_way_at_one_time_the_newest_is_drawn(service: Any) -> None:
    """The first waits for the encoder, and its answer comes after the second's."""
    begun, release = threading.Event(), threading.Event()

    def search(_: str, text: str, **__: Any) -> dict[str, Any]:
        if text == "ant":
            begun.set()
            assert release.wait(60)
        return {"hits": [HIT], "took_ms": 1}

    find, turn = newest(SearchTab(service(search=search)).search), PageSelection(0)
    with ThreadPoolExecutor(1) as first:
        older = first.submit(find, turn, 1, TEXT_TO_IMAGES, "col_1", "ant", None, 50, [], 12)
        assert begun.wait(60)
        assert "“house”" in find(turn, 2, TEXT_TO_IMAGES, "col_1", "house", None, 50, [], 12)[0]
        release.set()
        assert older.result(60) == (gr.skip(),) * 3


@pytest.fixture
def overtaken(service: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a tab, and a pick in it during which another is made. Returns: the tab, and what each pick changes."""
    monkeypatch.setattr("ui.tabs.search.store_file", lambda name, data: name)

    def pick(older: str, newer: str) -> tuple[SearchTab, dict[Any, Any], dict[Any, Any]]:
        changed: dict[Any, Any] = {}
        begun: list[bool] = []

        def follow(number: int, value: str) -> dict[Any, Any]:
            event: Any = SimpleNamespace(pick=value)
            return tab.follow(turn, number, opened, [], 24, None, event)

        def slow(result: Any) -> Any:
            def call(*_: Any, **__: Any) -> Any:
                if not begun:
                    begun.append(True)
                    changed.update(follow(2, newer))
                return result

            return call

        out = io.BytesIO()
        Image.new("RGB", (8, 8)).save(out, "PNG")
        turn, opened = PageSelection(0), PageSelection(0)
        hits = {"hits": [{**HIT, "text": "words"}], "took_ms": 1}
        tab = SearchTab(service(
            search=slow(hits), item=slow({"id": "i1", "labels": {}}), collection=COLLECTION,
            item_image=out.getvalue(), change_labels=slow(2),
        ))  # fmt: skip
        with gr.Blocks() as page:
            tab.build()
            tab.wire(page, gr.Tab(), gr.HTML())
        return tab, follow(1, older), changed

    return pick


def test_of_two_cards_the_one_pressed_last_is_shown(overtaken: Any) -> None:
    tab, older, newer = overtaken("image:col_1:i1", "image:col_1:i2")
    assert tab.detail not in older
    assert "lcl-detail" in newer[tab.detail]


def test_a_search_from_a_card_is_dropped_for_a_newer_one_and_not_for_details(overtaken: Any) -> None:
    tab, older, newer = overtaken("near:col_1:i1", "text:col_1:house")
    assert not {tab.results, tab.current, tab.mode, tab.text, tab.image} & older.keys()
    assert "“house”" in newer[tab.results]
    tab, older, _ = overtaken("near:col_1:i1", "image:col_1:i2")
    assert "closest to this image" in older[tab.results]
    assert tab.detail not in older, "others were opened later"


def test_a_tag_is_reported_whatever_is_opened_meanwhile(overtaken: Any) -> None:
    change = json.dumps({"text": "x", "items": ["i1"], "button": "add"})
    tab, older, newer = overtaken(f"tag:col_1:{change}", "image:col_1:i2")
    assert "gained the tag x" in older[tab.tagged]
    assert tab.detail not in older
    assert "lcl-detail" in newer[tab.detail]


def test_another_mode_searches_with_what_is_there(service: Any, image: str) -> None:
    client = service(search={"hits": [{"id": "t1", "score": 0.5, "text": "words"}], "took_ms": 1})
    tab = SearchTab(client)
    assert "texts" in tab.switch(IMAGE_TO_TEXTS, "col_1", "", image, 50, [], 24)[5]
    assert "Which image?" in tab.switch(IMAGE_TO_TEXTS, "col_1", "words", None, 50, [], 24)[5]
    assert len(client.arguments_of("search")) == 1
