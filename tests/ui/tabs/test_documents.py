"""The documents tab's handlers against a service that answers from memory."""

from __future__ import annotations

from typing import Any

from ui.tabs.documents import DocumentsTab, draw_documents

TEXT = {"text": "a <b>bold</b> word", "tokens": 6}
IMAGE = {"image": 'x"y/ü.png', "image_url": "ignored", "tokens": 51, "similarity": 0.314}
ITEM = {"id": "doc <1>", "segments": [TEXT, IMAGE]}


def answer(*items: Any, total: int = 20, offset: int = 0) -> dict[str, Any]:
    return {"items": list(items), "total": total, "offset": offset, "splits": ["test", "val"], "sources": ["web"],
            "tokens_of": {"name": "<mine>", "image": 18, "row": 256}}  # fmt: skip


def test_texts_and_images_stand_in_their_order_and_nothing_is_markup() -> None:
    drawn = draw_documents("my set", [ITEM], 2048)
    assert "a &lt;b&gt;bold&lt;/b&gt; word" in drawn
    assert "doc &lt;1&gt;" in drawn
    assert 'src="corpus/my%20set/x%22y/%C3%BC.png"' in drawn
    assert drawn.index("bold") < drawn.index("<figure>")
    assert "similarity 0.31" in drawn
    assert 'style="width:2.490%"' in drawn, "51 of 2,048 tokens"


def test_a_document_longer_than_a_row_fills_it() -> None:
    drawn = draw_documents(
        "d", [{"id": "0", "segments": [{"text": "x", "tokens": 3000}, {**IMAGE, "tokens": 1000}]}], 2048
    )
    assert 'style="width:75.000%"' in drawn
    assert "No. 1" in drawn


def test_labels_and_problems_are_reported() -> None:
    drawn = draw_documents(
        "d",
        [
            {"id": "3", "segments": [], "split": "val", "source": "", "labels": {"class": "<tench>"}},
            {"id": "f:9", "segments": [], "problem": "f:9: the line is not JSON"},
        ],
        2048,
    )
    assert "<span>val</span><span>&lt;tench&gt;</span>" in drawn
    assert "It is empty." in drawn
    assert "f:9: the line is not JSON" in drawn


def test_a_page_is_asked_for_with_its_filters(service: Any) -> None:
    client = service(dataset_documents=answer(ITEM, offset=6), dataset_statistics={})
    shown = DocumentsTab(client).show("d", "pairs", "val", "", 6)
    assert client.arguments_of("dataset_documents") == [{"tokens": True, "split": "val", "source": None}]
    offset, split, source, place, previous, following, drawn = shown
    assert offset == 6
    assert (split.value, split.visible, source.visible) == ("val", True, False), "one source is no choice"
    assert "7–7" in place
    assert "image, 18 tokens" in place
    assert "tokens of &lt;mine&gt; · bar = context of 256 tokens" in place
    assert "tokens of 256" in drawn, "the bar is as long as the context"
    assert (previous.interactive, following.interactive) == (True, True)
    assert "doc &lt;1&gt;" in drawn


def test_documents_are_asked_for_without_filters(service: Any) -> None:
    client = service(dataset_documents=answer(ITEM, total=1))
    shown = DocumentsTab(client).show("d", "interleaved", "val", "web", -6)
    assert client.arguments_of("dataset_documents") == [{"tokens": True}]
    assert shown[0] == 0
    assert [button.interactive for button in shown[4:6]] == [False, False]


def test_without_a_dataset_or_a_service_that_is_said(service: Any, away: Exception) -> None:
    assert "No dataset yet" in DocumentsTab(service(datasets=[])).show(None, "interleaved", "", "")[-1]
    assert "no answer from" in DocumentsTab(service(datasets=away)).show(None, "interleaved", "", "")[-1]
    empty = service(dataset_documents=answer(total=0), dataset_statistics={})
    assert "No documents" in DocumentsTab(empty).show("d", "interleaved", "", "")[-1]
    assert "No captioned images" in DocumentsTab(empty).show("d", "pairs", "", "")[-1]


def test_the_first_dataset_is_shown_to_who_chose_none(service: Any) -> None:
    client = service(datasets=[{"name": "first"}, {"name": "second"}], dataset_documents=answer(ITEM))
    assert DocumentsTab(client).refresh(None).value == "first"
    DocumentsTab(client).show(None, "interleaved", "", "")
    assert client.calls[-1][1][0] == "first"


def test_a_dataset_is_sent_to_be_validated(service: Any, away: Exception) -> None:
    assert 'href="?run=run_7"' in DocumentsTab(service(validate_dataset={"id": "run_7"})).validate("d")
    assert "no answer from" in DocumentsTab(service(validate_dataset=away)).validate("d")
    assert "Choose a dataset" in DocumentsTab(service()).validate(None)
