"""The data tab's handlers against a service that answers from memory."""

from __future__ import annotations

import json
import re
from html import unescape
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from api.client import ApiError
from ui.tabs.data import DataTab, document_title, draw_document

TEXT = {"text": "a <b>bold</b> word"}
IMAGE = {"image": 'x"y/ü.png', "image_url": "ignored", "similarity": 0.314}
ITEM = {"id": "doc <1>", "item": "interleaved.jsonl:1", "tags": [], "segments": [TEXT, IMAGE, {"text": "It ends."}]}
COUNTS = {"documents": 20, "pairs": 7, "images": 30, "splits": {"test": 4, "val": 3}, "sources": {"web": 7}}


@pytest.fixture
def opened(service: Any) -> Any:
    """What a tab shows of an address, and what it asked the service: ``answers`` change those of a dataset ``d``."""

    def call(address: dict[str, str], view: Any = None, chosen: str | None = None, **answers: Any) -> Any:
        page = {"items": [ITEM], "total": 20, "next": None}
        detail = {"statistics": COUNTS, "tags": {"dull": 3}, "owner": "ada"}
        known = {"datasets": [{"name": "d"}, {"name": "e"}], "dataset": detail, "dataset_documents": page}
        known["own_key"] = {"owner": "ada", "role": "submitter"}
        client = service(**known | answers)
        tab = DataTab(client)
        with gr.Blocks():
            tab.build()
        request: Any = SimpleNamespace(query_params=address, cookies={})
        drawn = tab.open(view or {}, chosen, "", request)
        return SimpleNamespace(tab=tab, client=client, shown=drawn[tab.shown], drawn=drawn)

    return call


def address_of(shown: str) -> Any:
    return json.loads(unescape(re.findall('data-view="(.*?)"', shown)[0]))


def test_texts_and_images_stand_in_their_order_and_nothing_is_markup() -> None:
    drawn = draw_document("my set", ITEM)
    assert "&lt;b&gt;bold&lt;/b&gt; word</h3>" in drawn
    assert "doc &lt;1&gt;" in drawn
    assert "bold" not in drawn.partition("</header>")[2], "a title is not said twice"
    assert 'src="corpus/my%20set/x%22y/%C3%BC.png"' in drawn
    assert "similarity 0.31" in drawn
    assert drawn.index("<img") < drawn.index("It ends.")
    broken = {**ITEM, "segments": [], "split": "val", "labels": {"class": "<tench>"}, "problem": "f:9: no JSON"}
    drawn = draw_document("d", broken)
    assert "<span>val</span><span>&lt;tench&gt;</span>" in drawn
    assert "f:9: no JSON" in drawn


@pytest.mark.parametrize(
    ("name", "text", "title"),
    [
        ("emoji:('emojione', 'activities')/0", "activities.", "activities"),
        ("https://example.org/wiki/Barn_owl.html?old=1", "An owl", "Barn owl (example.org)"),
        ("https://example.org/", "An owl", "example.org"),
        ("travel.md", "owl " * 50, "travel.md"),
        ("6", "owl " * 50, "No. 7"),
    ],
)
def test_titles_say_what_a_document_is_about(name: str, text: str, title: str) -> None:
    assert document_title({"id": name, "segments": [IMAGE, {"text": text}]}) == title


def test_an_address_is_asked_for_and_pages_are_links(opened: Any) -> None:
    address = {"dataset": "d", "show": "pairs", "split": "val", "at": "25"}
    page = opened(address, dataset_documents={"items": [ITEM], "total": 99, "next": 48})
    assert page.client.arguments_of("dataset_documents") == [{"q": "", "tag": None, "split": "val", "source": None}]
    assert "25–25 of 99" in page.shown
    assert address_of(page.shown) == address
    assert 'href="?dataset=d&amp;show=pairs&amp;split=val&amp;at=49">Next' in page.shown
    assert 'href="?dataset=d&amp;show=pairs&amp;split=val">Previous' in page.shown
    assert 'href="?dataset=d">20 documents' in page.shown
    assert "30 images" in page.shown
    again = opened({}, view=address)
    assert address_of(again.shown) == address, "what was shown last"


def test_words_are_found_with_a_tag(opened: Any) -> None:
    found = {"items": [ITEM], "total": 5000, "next": 2400}
    page = opened({"dataset": "d", "q": "red <fox>", "tag": "dull", "at": "401"}, dataset_documents=found)
    assert page.client.arguments_of("dataset_documents") == [{"q": "red <fox>", "tag": "dull"}]
    assert "1 with “red &lt;fox&gt;” and the tag dull among 401–2,400 of 5,000" in page.shown
    assert ">First<" in page.shown
    actions = page.drawn[page.tab.actions]
    assert "new=convert&amp;dataset=d&amp;only_tags=dull" in actions
    assert "new=convert&amp;dataset=d&amp;without_tags=dull" in actions
    assert page.drawn[page.tab.words] == "red <fox>"


@pytest.mark.parametrize(("role", "owner", "deletes"), [("submitter", "ada", True), ("submitter", "bob", False),
                                                        ("admin", "bob", True), ("viewer", "ada", False)])  # fmt: skip
def test_who_may_delete_a_dataset_sees_that(opened: Any, role: str, owner: str, deletes: bool) -> None:
    detail = {"statistics": COUNTS, "tags": {}, "owner": owner}
    page = opened({"dataset": "d"}, dataset=detail, own_key={"owner": "ada", "role": role})
    assert ("delete:d" in page.drawn[page.tab.actions]) == deletes
    assert "licence none given" in page.shown


def test_without_a_dataset_or_a_service_that_is_said(opened: Any, away: Exception) -> None:
    assert "Add a folder or a zip" in opened({}, datasets=[]).shown
    missing = opened({"dataset": "x"}, dataset=ApiError(404, "not_found", "no dataset"))
    assert "There is no dataset x" in missing.shown
    problem = opened({"dataset": "d", "q": "fox"}, dataset_documents=away).shown
    assert "data-reopen" in problem
    assert address_of(problem) == {"dataset": "d", "q": "fox"}


def test_the_first_dataset_is_shown_to_who_chose_none(opened: Any) -> None:
    assert address_of(opened({}).shown) == {"dataset": "d"}
    assert address_of(opened({}, chosen="e").shown) == {"dataset": "e"}


def test_a_link_to_the_panel_for_a_new_dataset_opens_it(opened: Any) -> None:
    page = opened({"tab": "data", "new": "upload"})
    assert (page.drawn[page.tab.adding].visible, page.drawn[page.tab.bar].visible) == (True, False)


def test_tags_are_changed_and_a_deletion_is_asked_for(service: Any, away: Exception) -> None:
    client = service(tag_documents=3, delete_dataset=None)
    tab = DataTab(client)

    def act(pick: str) -> str:
        return tab.act(SimpleNamespace(pick=pick))  # type: ignore[arg-type]

    drawn = draw_document("my set", {**ITEM, "tags": ["team:a"]})
    remove = unescape(re.findall(r'data-pick="(tag:[^"]+)"', drawn)[0])
    assert "3 items lost the tag team:a." in act(remove)
    assert client.calls == [("tag_documents", ("my set", ["interleaved.jsonl:1"]), {"remove": ["team:a"]})]
    assert "Delete d?" in act("delete:d")
    assert len(client.calls) == 1
    assert "d is deleted" in act("deletion:d")
    assert act("keep:") == ""
    client.answers["tag_documents"] = away
    assert "Nothing was changed" in act(remove)
