"""The Search tab's handlers against a service that answers from memory."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from api.client import ApiError
from ui.common import PageSelection
from ui.tabs.search import SearchTab
from ui.tabs.search_query import PageQuery, filter_choices, label_choice, parse_label_filter
from ui.tabs.search_view import draw_detail, draw_preparation, draw_results

COLLECTION = {"id": "col_1", "name": "drawings", "images": 3, "label_types": {}, "text_vectors": True}
COLLECTION |= {"labels": {"hue": ["red", "blue"], "name": ["x"] * 301}}
COLLECTION |= {"label_images": {"hue": [2000, 1], "name": [1] * 301}}
HIT = {"id": "i1", "score": 0.91234, "caption": "an <ant>", "text": "an ant", "labels": {}}
HIT |= {"rank_looks": 3, "rank_captions": 21, "found": ["ants", "red"]}
ANSWER = {"hits": [HIT], "collection": "drawings", "total": 5398, "read_as": "ant", "not_understood": []}
RED, BLUE, BIG = label_choice("hue", "red"), label_choice("hue", "blue"), label_choice("size", "big")
QUERY = PageQuery("col_1", "ant", name="drawings")


class Request:
    """What Gradio gives of the address."""

    def __init__(self, **query: str) -> None:
        self.query_params = query
        self.cookies: dict[str, str] = {}


class Page:
    """The tab with the values of its fields; each search is the current one of the next."""

    def __init__(self, client: Any) -> None:
        self.client, self.tab = client, SearchTab(client)
        self.values: dict[str, Any] = {"where": [], "match": "both", "texts": False}
        self.current: Any = None

    def search(self, text: str = "", file: str = "", *, again: bool = False, **changed: Any) -> Any:
        self.values |= changed
        box = {"text": text, "files": [file] if file else []}
        handler = self.tab.search_again if again else self.tab.search
        return self._keep(handler(self.current, self.values.get("collection", "col_1"), box, *self._options()))

    def open(self, **address: str) -> Any:
        return self._keep(self.tab.open(self.current, "col_1", None, Request(**address)))

    def _options(self) -> list[Any]:
        return [self.values[name] for name in ("where", "match", "texts")]

    def _keep(self, shown: Any) -> Any:
        self.current = self.current if shown.current == gr.skip() else shown.current
        return shown


@pytest.fixture
def page(service: Any) -> Page:
    answers = {"search": ANSWER, "collections": [COLLECTION], "collection": COLLECTION, "items": [HIT]}
    answers["item"] = {"id": "i1", "captions": ["an <ant>"]}
    return Page(service(**answers, item_image=b"\x89PNG\r\n\x1a\n"))


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "mine.png"
    path.write_bytes(b"\x89PNG")
    return str(path)


def test_it_asks_for_what_was_typed_and_says_why_a_hit_is_there_without_a_number(page: Page) -> None:
    shown = page.search("  an ant ")
    asked = {"target": "images", "match": "both", "where": {}, "k": 24, "offset": 0, "text": "an ant"}
    assert page.client.arguments_of("search") == [asked]
    assert "<b>1 of 5,398 images</b> for “an ant”, read as ant" in shown.results
    assert "an &lt;<b>ant</b>&gt; · <b>red</b>" in shown.results
    assert 'title="Looks: 3rd. Caption: 21st (ants, red)."' in shown.results
    assert "0.91" not in shown.results
    assert 'href="?q=an%20ant&amp;collection=drawings&amp;item=i1"' in shown.results
    assert (shown.more.visible, shown.detail) == (False, "")


def test_words_and_an_image_are_searched_with_together(page: Page, image: str) -> None:
    shown = page.search("red", image)
    (query,) = page.client.arguments_of("search")
    assert (query["text"], query["image"], query["target"]) == ("red", b"\x89PNG", "images")
    assert "your image and “red”" in shown.results


def test_an_image_alone_is_searched_with_and_can_find_texts(page: Page, image: str) -> None:
    page.search("", image, match="captions")
    page.client.answers["search"] = ANSWER | {
        "hits": [{"id": "t1", "text": "words"}, {"id": "t2", "text": "w " * 2000}]
    }
    shown = page.search("", image, texts=True)
    asked = [(query["target"], query["match"], "text" in query) for query in page.client.arguments_of("search")]
    assert asked == [("images", "both", False), ("texts", "both", False)]
    assert 'href="?q=words&amp;collection=drawings"' in shown.results
    assert shown.results.count("<a href") == 1, "a text that is too long for an address has no link"


def test_without_a_query_the_collection_is_looked_through(page: Page) -> None:
    shown = page.search(" ")
    assert "3 images</b>. Try <a" in shown.results
    assert page.client.arguments_of("search") == []
    page.values["where"] = [RED]
    assert "The filter counts once" in page.search("", again=True).results


def test_the_filter_offers_labels_with_few_values_and_their_counts(page: Page) -> None:
    shown = page.open(collection="col_1", q="ant")
    assert shown.where["choices"] == [("hue: blue · 1", BLUE), ("hue: red · 2,000", RED)]


def test_filters_that_were_chosen_or_typed_are_asked_for_and_kept_in_the_address(page: Page) -> None:
    where = {
        "year": {"gte": "1990", "lt": "2000"},
        "tags": {"all": ["new"], "none": ["old"], "any": ["a"]},
        "hue": ["red"],
    }
    page.search("ant")
    shown = page.search("ant", again=True, where=["hue: red · 2,000", "year>=1990", "year < 2000", "tags+=new",
                                                  "tags!=old", label_choice("tags", "a")])  # fmt: skip
    assert page.client.arguments_of("search")[1]["where"] == where
    assert parse_label_filter(filter_choices(json.dumps(where))) == where
    assert "%22gte%22" in shown.results
    refused = page.search("ant", again=True, where=["old"])
    assert "is no filter; write label=value" in refused.results
    for given in ('["a", 1', "[1, 2]", '"ab"'):
        assert "is no filter" in page.search("ant", where=[given]).results


def test_options_that_an_address_has_set_are_not_searched_again(page: Page) -> None:
    page.open(collection="col_1", q="ant", where='{"hue": ["red"]}', match="looks", mode="texts")
    (query,) = page.client.arguments_of("search")
    assert (query["match"], query["where"], query["target"]) == ("looks", {"hue": ["red"]}, "images")
    page.values = {"where": [RED], "match": "looks", "texts": True}
    assert page.search("ant", again=True) == page.search("ant", again=True, where=[RED])
    assert len(page.client.arguments_of("search")) == 1
    page.search("ant", again=True, match="both")
    assert len(page.client.arguments_of("search")) == 2
    assert PageQuery.of_address("c", {"match": "x"}, "") == PageQuery("c")


def test_another_collection_keeps_the_labels_that_it_has(page: Page) -> None:
    page.search("ant", collection="col_2")
    shown = page.search("ant", again=True, collection="col_1", where=[RED, BIG])
    assert shown.where["value"] == [RED]
    assert page.client.arguments_of("search")[1]["where"] == {"hue": ["red"]}


def test_of_more_only_what_is_new_is_asked_for_while_there_is_more(page: Page) -> None:
    def search(_: str, k: int, offset: int, **__: Any) -> dict[str, Any]:
        return ANSWER | {"hits": [{**HIT, "id": f"i{place}."} for place in range(50)[offset : offset + k]]}

    page.client.answers["search"] = search
    shown = page.search("ant", where=[RED])
    assert ("24 of 5,398" in shown.results, shown.more.visible) == (True, True)
    for count, last in ((48, False), (50, True)):
        drawn, page.current, more, _ = page.tab.show_more(page.current)
        assert (f"{count} of 5,398" in drawn, more.visible) == (True, not last)
        assert -1 < drawn.index("item=i0.") < drawn.index(f"item=i{count - 1}.")
    assert [(query["offset"], query["where"]) for query in page.client.arguments_of("search")] == [
        (offset, {"hue": ["red"]}) for offset in (0, 24, 48)
    ]
    page.client.answers["search"] = ApiError(503, "busy", "too much to do")
    assert page.tab.show_more(page.current)[:3] == (gr.skip(),) * 3
    assert "too much to do" in page.tab.show_more(page.current)[3]


def test_another_image_beside_the_same_hits_draws_these_no_more(page: Page) -> None:
    page.open(collection="drawings", q="ant")
    shown = page.open(collection="drawings", q="ant", item="i1")
    assert (shown.results, shown.current) == (gr.skip(), gr.skip())
    assert "Looks: 3rd. Caption: 21st (ants, red). Cosine 0.912." in shown.detail
    assert 'href="?q=ant&amp;collection=drawings" aria-label="Close"' in shown.detail
    assert page.open(collection="drawings", q="ant").detail == ""
    page.client.answers["item"] = ApiError(404, "not_found", "no such image")
    assert "no such image" in page.open(collection="drawings", q="ant", item="i2").detail


def test_an_image_of_the_collection_is_in_the_box_and_searched_with_by_its_id(
    page: Page, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.tabs.search.store_file", lambda *_: "/the/stored.png")
    shown = page.open(collection="drawings", like="i1")
    assert shown.box == {"text": "", "files": ["/the/stored.png"]}
    page.search("red", "/the/stored.png")
    query = page.client.arguments_of("search")[-1]
    assert (query["item"], query["text"]) == ("i1", "red")
    page.search("", image)
    assert "item" not in page.client.arguments_of("search")[-1]
    assert "item" not in page.open(collection="drawings", image="1", q="red").current.query.request()
    assert page.current.query.image == image, "an address that had an uploaded image has it still"


def test_refusals_and_nothing_are_reported_in_words(page: Page, away: Exception) -> None:
    page.client.answers["search"] = ANSWER | {"hits": []}
    assert "No image fits “ant”." in page.search("ant").results
    shown = page.search("ant", again=True, where=[RED])
    assert "No image passes the filter hue: red." in shown.results
    assert 'href="?q=ant&amp;collection=drawings">Remove the filter' in shown.results
    page.client.answers["search"] = away
    assert "no answer from" in page.search("ant").results
    page.client.answers["collections"] = away
    assert "no answer from" in page.search("ant", collection=None).results
    assert "There is no collection" in Page(type(page.client)(collections=[COLLECTION])).open(collection="x").results


def test_words_that_are_not_understood_and_cut_texts_are_said() -> None:
    drawn = draw_results(QUERY, [HIT], ANSWER | {"not_understood": ["without"], "text_limit": 77})
    assert "“without” is not understood; use Filter." in drawn
    assert "reads 77 tokens of a text" in drawn


def test_the_tab_waits_for_the_first_collection_and_opens_it_by_itself(page: Page) -> None:
    turn, request = PageSelection(0), Request(q="ant")
    progress = {"step": 2560, "total_steps": 6123, "seconds_left": 20.0}
    run = {"state": "running", "spec": {"collection": "sample-drawings"}, "progress": progress}
    page.client.answers |= {"collections": [], "runs": {"items": [run]}}
    *shown, clock = page.tab.start(turn, None, None, None, request)
    assert clock == gr.skip()
    for part in ("Preparing sample-drawings", "2,560 of 6,123 images · 20 s left", 'aria-valuenow="42"'):
        assert part in shown[5]
    run |= {"progress": None, "obstacle": {"code": "no_worker"}, "created_at": datetime.now(UTC).isoformat()}
    assert "Waiting for a worker" in draw_preparation(run)
    assert "Start one with <code>make up</code>." in draw_preparation({**run, "created_at": "2026-01-01T10:00:00Z"})
    page.client.answers["runs"] = {"items": []}
    assert "No collection yet" in page.tab.tick(turn, None, None, None, True, request)[5]
    calls = len(page.client.calls)
    page.tab.tick(turn, None, None, None, None, request)
    assert len(page.client.calls) == calls, "nothing is fetched while the tab is not looked at"
    page.client.answers["collections"] = [COLLECTION]
    *shown, clock = page.tab.tick(turn, None, None, None, True, request)
    assert (shown[0]["value"], "“ant”" in shown[5], clock.active) == ("col_1", True, False)
    assert page.tab.start(PageSelection(3), None, None, None, request)[5] == gr.skip(), "a search came first"


def test_tags_are_changed_and_the_image_is_drawn_again(page: Page) -> None:
    page.client.answers["change_labels"] = 1
    page.search("ant")
    change = {"text": "new", "items": ["i1"], "button": "add"}
    event: Any = type("Event", (), {"pick": f"tag:col_1:{json.dumps(change)}"})
    where, detail, said = page.tab.change_tags(page.current, event)
    assert page.client.arguments_of("change_labels")[0]["add"] == {"tags": ["new"]}
    assert ("1 image gained the tag new." in said, "an &lt;ant&gt;" in detail) == (True, True)
    assert "value" not in where
    page.client.answers["change_labels"] = ApiError(422, "invalid_value", "tags is a text here")
    assert "The tags were not changed" in page.tab.change_tags(page.current, event)[2]


def test_what_is_drawn_of_an_image_cannot_break_out() -> None:
    evil = {"id": '"><b>', "captions": ["<script>"], "labels": {"<i>": '"x"'}}
    drawn = draw_detail(QUERY, evil, [evil], [], {"<i>": {'"x"': 1}})
    assert "<script>" not in drawn
    assert "<b>" not in drawn
    assert 'aria-label="Only images with &lt;i&gt; &quot;x&quot;"' in drawn


def test_where_captions_have_no_vectors_similar_ones_are_not_offered() -> None:
    assert "Similar texts" in draw_detail(QUERY, HIT, [], [{"text": "an ant"}], {})
    assert "Similar texts" not in draw_detail(QUERY, HIT, [], [], {})


@pytest.mark.parametrize("written", ['["red", "new"]', "red; new", "red"])
def test_the_members_of_a_set_are_filters_each(written: str) -> None:
    item = {"id": "i1", "labels": {"tags": written, "size": "[5"}}
    drawn = draw_detail(QUERY, item, [], [], {"tags": {"red": 1, "green": 2}, "size": {"1": 1}})
    assert drawn.count("Only images with") == 1
    assert "where=%7B%22tags%22%3A%20%5B%22red%22%5D%7D" in drawn
    assert "[5" in drawn
    assert ("<i>tags</i> new" in drawn) == written.startswith("["), "a member without a filter is shown"
