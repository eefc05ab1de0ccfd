"""The documents tab's handlers against a service that answers from memory."""

from __future__ import annotations

import json
import re
from html import unescape
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from ui.common import PageSelection
from ui.html import esc
from ui.tabs.documents import UNCHANGED, DocumentsInput, DocumentsTab, document_title, draw_documents

TEXT = {"text": "a <b>bold</b> word"}
IMAGE = {"image": 'x"y/ü.png', "image_url": "ignored", "similarity": 0.314}
ITEM = {"id": "doc <1>", "item": "interleaved.jsonl:1", "tags": [], "segments": [TEXT, IMAGE]}


def query(*values: Any) -> DocumentsInput:
    """What a page asks for that has asked for nothing before."""
    return DocumentsInput(PageSelection(0), *values)


def answer(*items: Any, total: int = 20, offset: int = 0) -> dict[str, Any]:
    following = offset + len(items) if offset + len(items) < total else None
    return {"items": list(items), "total": total, "offset": offset, "splits": ["test", "val"], "sources": ["web"],
            "rows": [*range(offset, offset + len(items))], "next": following}  # fmt: skip


def test_texts_and_images_stand_in_their_order_and_nothing_is_markup() -> None:
    drawn = draw_documents("my set", [ITEM])
    assert "a &lt;b&gt;bold&lt;/b&gt; word" in drawn
    assert "doc &lt;1&gt;" in drawn
    assert 'src="corpus/my%20set/x%22y/%C3%BC.png"' in drawn
    assert drawn.index("bold") < drawn.index("<figure>")
    assert "similarity 0.31" in drawn
    known = draw_documents("my set", [{**ITEM, "id": "0", "segments": [{**IMAGE, "similarity": 1.0}]}])
    assert "similarity" not in known, "its position is known"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("emoji:('emojione', 'activities')/0", "activities (EmojiOne)"),
        ("emoji:('noto-v1', 'air transportation')/6", "air transportation (Noto v1), from image 7"),
        ("""icons:('tabler', "men's clothes")/0""", "men's clothes (Tabler)"),
        ("openclipart:recreation/games/12", "recreation, games (Open Clip Art), from image 13"),
        ("https://example.org/wiki/Barn_owl.html?old=1", "Barn owl (example.org)"),
        ("https://example.org/", "example.org"),
        ("docs_shard_3_v2.jsonl:1", "An owl hunts at night."),
        ("travel.md", "An owl hunts at night."),
        ("6", "No. 7"),
    ],
)
def test_titles_say_what_a_document_is_about(name: str, title: str) -> None:
    text = {"text": "An owl  hunts at night. It flies without a sound."}
    item = {**ITEM, "id": name, "segments": [IMAGE, text]}
    assert document_title(item) == title
    assert f">{esc(title)}</h3>" in draw_documents("d", [item])
    assert f'title="{esc(name)}"' in draw_documents("d", [item]), "the id is still to be had"


def test_a_long_first_sentence_is_cut_and_without_one_the_id_stays() -> None:
    assert document_title({"id": "a.md", "segments": [{"text": "owl " * 50}]}).endswith("owl…")
    assert document_title({"id": "a.md", "segments": [IMAGE]}) == "a.md"


def test_labels_and_problems_are_reported() -> None:
    drawn = draw_documents(
        "d",
        [
            {**ITEM, "id": "3", "segments": [], "split": "val", "source": "", "labels": {"class": "<tench>"}},
            {**ITEM, "id": "f:9", "segments": [], "problem": "f:9: the line is not JSON"},
        ],
    )
    assert "<span>val</span><span>&lt;tench&gt;</span>" in drawn
    assert "It is empty." in drawn
    assert "f:9: the line is not JSON" in drawn


def test_a_page_is_asked_for_with_its_filters(service: Any) -> None:
    client = service(dataset_documents=answer(ITEM, offset=6), dataset_statistics={}, dataset_tags={})
    shown = DocumentsTab(client).show(query("d", "pairs", "val"), 6)
    assert client.arguments_of("dataset_documents") == [{"q": "", "tag": None, "split": "val", "source": None}]
    offset, split, source, tag, place, previous, following, next_offset, drawn = shown
    assert (offset, next_offset) == (6, 7)
    assert (split.value, split.visible, source.visible) == ("val", True, False), "one source is no choice"
    assert not tag.visible, "there are no tags"
    assert "7–7" in place
    assert (previous.interactive, following.interactive) == (True, True)
    assert "doc &lt;1&gt;" in drawn


def test_documents_are_asked_for_without_filters(service: Any) -> None:
    client = service(dataset_documents=answer(ITEM, total=1), dataset_tags={})
    shown = DocumentsTab(client).show(query("d", "interleaved", "val", "web"), -6)
    assert client.arguments_of("dataset_documents") == [{"q": "", "tag": None}]
    assert shown[0] == 0
    assert [button.interactive for button in shown[5:7]] == [False, False]


def test_without_a_dataset_or_a_service_that_is_said(service: Any, away: Exception) -> None:
    assert "No dataset yet" in DocumentsTab(service(datasets=[])).show(query(None, "interleaved"))[-1]
    assert "no answer from" in DocumentsTab(service(datasets=away)).show(query(None, "interleaved"))[-1]
    empty = service(dataset_documents=answer(total=0), dataset_statistics={}, dataset_tags={})
    assert "documents only" in DocumentsTab(empty).show(query("d", "pairs"))[-1], "there is nothing to choose"
    assert "split and source" in DocumentsTab(empty).show(query("d", "pairs", "val"))[-1]
    assert "No documents" in DocumentsTab(empty).show(query("d", "interleaved"))[-1]
    assert "No captioned images" in DocumentsTab(empty).show(query("d", "pairs"))[-1]


def test_the_first_dataset_is_shown_to_who_chose_none(service: Any) -> None:
    client = service(datasets=[{"name": "first"}, {"name": "second"}], dataset_documents=answer(ITEM), dataset_tags={})
    assert DocumentsTab(client).refresh(None)["value"] == "first"
    DocumentsTab(client).show(query(None, "interleaved"))
    assert client.calls[-1][1][0] == "first"


def test_a_dataset_is_sent_to_be_validated(service: Any, away: Exception) -> None:
    assert 'href="?run=run_7"' in DocumentsTab(service(submit={"id": "run_7"})).validate("d")
    assert "no answer from" in DocumentsTab(service(submit=away)).validate("d")
    assert "Choose a dataset" in DocumentsTab(service()).validate(None)


def test_words_are_searched_and_the_search_goes_on(service: Any) -> None:
    found = answer(ITEM, total=5000) | {"rows": [812], "next": 2400}
    client = service(dataset_documents=found, dataset_tags={})
    tab = DocumentsTab(client)
    offset, *_, place, previous, following, next_offset, drawn = tab.show(
        query("d", "interleaved", "", "", " red <fox> "), 400
    )
    assert client.arguments_of("dataset_documents") == [{"q": "red <fox>", "tag": None}]
    assert (offset, next_offset, previous.interactive, following.interactive) == (400, 2400, True, True)
    assert "1 with “red &lt;fox&gt;”</b> among 401–2,400 of 5,000" in place
    assert "&quot;q&quot;: &quot;red" in drawn, "the address has the words"
    tab.go_back(*query("d", "interleaved", "", "", "red"), 400)
    assert _offsets(client)[-1] == 0, "to the beginning of the search"
    empty = service(dataset_documents=answer(total=9) | {"next": 4}, dataset_tags={})
    nothing = DocumentsTab(empty).show(query("d", "interleaved", "", "", "x"))
    assert "Nothing found" in nothing[-1]
    assert nothing[6].interactive, "the search ended by time, there may be more"


def test_a_number_leads_to_its_document(service: Any) -> None:
    client = service(dataset_documents=answer(ITEM, total=5000), dataset_tags={})
    tab = DocumentsTab(client)
    assert tab.go_to(*query("d", "interleaved"), "1,200")[0] == 1199
    assert _offsets(client)[-1] == 1199
    assert tab.go_to(*query("d", "interleaved"), "soon") == UNCHANGED


def test_a_number_beyond_the_end_leads_to_the_last_page(service: Any) -> None:
    items = [{**ITEM, "id": str(place)} for place in range(2000)]

    def documents(_: str, offset: int, limit: int, view: str, **__: Any) -> dict[str, Any]:
        return answer(*items[offset : offset + limit], total=2000, offset=offset)

    client = service(dataset_documents=documents, dataset_tags={"dull": 1})
    tab = DocumentsTab(client)
    offset, *_, place, previous, following, _, drawn = tab.go_to(*query("d", "interleaved"), "99999")
    assert (offset, previous.interactive, following.interactive) == (1994, True, False)
    assert "Documents 1,995–2,000</b> of 2,000" in place
    assert "&quot;start&quot;: &quot;1995&quot;" in drawn, "the address is that of the page on show"
    saved = request(dataset="d", start="5001")
    assert tab.open_address(saved, *query("d", "interleaved"), 0)[3] == 1994, "a new version has fewer documents"
    assert tab.show(query("d", "interleaved", "", "", "owl"), 5000)[0] == 0, "a search goes on from the beginning"
    small = service(dataset_documents=lambda *_, **__: answer(ITEM, total=1), dataset_tags={})
    assert DocumentsTab(small).show(query("d", "interleaved"), 5)[0] == 0


def test_tags_are_shown_chosen_and_removed(service: Any) -> None:
    tagged = {**ITEM, "tags": ["blurred", "team:a"]}
    client = service(
        dataset_documents=answer(tagged, total=5000), dataset_tags={"blurred": 1200, "team:a": 1}, tag_documents=3
    )
    tab = DocumentsTab(client)
    *_, menu, place, _, _, _, drawn = tab.show(query("my set", "interleaved", "", "", "", "blurred"))
    assert client.arguments_of("dataset_documents")[-1]["tag"] == "blurred"
    assert (menu.value, menu.visible) == ("blurred", True)
    assert menu.choices[1] == ("blurred (1,200)", "blurred")
    assert "1 with the tag blurred</b> among 1–1 of 5,000" in place
    assert 'href="?tab=runs&amp;new=convert&amp;dataset=my%20set&amp;only_tags=blurred"' in place
    assert 'href="?tab=runs&amp;new=convert&amp;dataset=my%20set&amp;without_tags=blurred"' in place
    assert "&quot;tag&quot;: &quot;blurred" in drawn, "the address has the tag"
    pick = unescape(re.findall(r'data-pick="(tag:[^"]+)"', drawn)[1])
    said, *again = tab.change_tags(
        SimpleNamespace(pick=pick),  # type: ignore[arg-type]
        *query("my set", "interleaved", "", "", "", "blurred"),
        0,
    )
    assert client.arguments_of("tag_documents") == [{"remove": ["team:a"]}]
    assert client.calls[-3][1] == ("my set", ["interleaved.jsonl:1"])
    assert "3 documents lost the tag team:a." in said
    assert len(again) == 9


def test_a_tag_that_the_service_refuses_changes_nothing_on_the_page(service: Any, away: Exception) -> None:
    change = json.dumps({"text": "x", "items": ["interleaved.jsonl:1"], "button": "add"})
    event: Any = SimpleNamespace(pick=f"tag:d:{change}")
    said, *rest = DocumentsTab(service(tag_documents=away)).change_tags(event, *query("d", "pairs"), 0)
    assert "The tags were not changed" in said
    assert rest == [gr.skip()] * 9


def test_a_tag_of_another_dataset_is_no_filter(service: Any) -> None:
    client = service(dataset_documents=answer(ITEM), dataset_tags={"other": 1})
    menu = DocumentsTab(client).show(query("d", "interleaved", "", "", "", "blurred"))[3]
    assert client.arguments_of("dataset_documents")[-1]["tag"] is None
    assert menu.value == ""


def request(**parameters: str) -> Any:
    return SimpleNamespace(query_params=parameters, cookies={})


def test_a_page_that_fails_leaves_the_one_on_show(service: Any, away: Exception) -> None:
    tab = DocumentsTab(service(dataset_tags=away, tag_documents=1))
    asked = query("d", "interleaved", "", "", "fox")
    for offset, *rest in (tab.show_inputs(*asked, 4302), tab.go_back(*asked, 4302), tab.show_inputs(*asked)):
        assert "no answer from" in rest.pop(3)
        assert (offset, rest) == (gr.skip(), [gr.skip()] * 7), "the same button tries again"


def test_an_opening_that_fails_is_tried_again_with_its_address(service: Any, away: Exception) -> None:
    tab = DocumentsTab(service(dataset_tags=away, dataset_statistics=away))
    linked = request(dataset="d", show="pairs", start="4302", q="fox", tag="dull", split="val")
    problem = tab.open_address(linked, *query("d", "interleaved"), 0)[-1]
    assert "data-reopen" in problem
    view = {"dataset": "d", "show": "pairs", "start": "4302", "q": "fox", "tag": "dull", "split": "val"}
    assert json.loads(unescape(re.findall('data-view="(.*?)"', problem)[0])) == view


def _offsets(client: Any) -> list[int]:
    return [arguments[1] for called, arguments, _ in client.calls if called == "dataset_documents"]
