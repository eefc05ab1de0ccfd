"""The encoders' list, model card and comparison, against a service that answers from memory."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from api.client import ApiError
from ui.tabs.encoders import EncoderSelection, EncodersTab, draw_differences, readable

RECALL = {"task": "retrieval", "split": "val", "variant": "v", "transfer": "zero_shot", "metric": "IR@5", "value": 0.2,
          "chance": 0.01, "untrained": 0.3, "title": "text → image", "run_id": "r1"}  # fmt: skip
ENCODERS: list[dict[str, Any]] = [
    {"id": "enc_1", "name": "old", "owner": "lcl", "info": {"parameters": 6_624_513, "files": {"a.json": "f00"}},
     "figures": [RECALL], "badge": "worse than untrained", "pinned": True, "run_id": "run_9"},
    {"id": "enc_2", "name": "new", "info": {}, "figures": [], "badge": ""},
]  # fmt: skip
CARD = {
    "encoder": ENCODERS[0], "readme": "", "about": "# Words <b data-pick='x'>\n```mermaid\n--data-binary", "spec": {},
    "licence": "apache-2.0", "main": [RECALL], "badge": "worse than untrained", "figures": [RECALL],
    "collections": [{"id": "col_1", "name": "drawings", "images": 5397}],
}  # fmt: skip


@pytest.fixture
def client(service: Any) -> Any:
    hidden = ApiError(404, "not_found", "there is no run")

    def fails(_: str) -> Any:
        raise hidden

    compared = {"left": ENCODERS[0], "right": ENCODERS[1], "rows": []}
    return service(
        encoders=ENCODERS, encoder_card=CARD, metrics=fails, compare_encoders=compared,
        delete_encoder=None, change_encoder={}, submit={"id": "run_2"}, import_encoder={"id": "enc_3"},
        own_key={"owner": "ada", "role": "admin", "may_import": True},
    )  # fmt: skip


def picked(value: str) -> Any:
    """What Gradio gives of a click on an element with ``data-pick``."""
    return type("Event", (), {"pick": value})()


def typed(verb: str, text: str) -> Any:
    return picked(f"{verb}:{json.dumps({'text': text, 'button': '', 'address': '?tab=encoders'})}")


def test_the_list_has_three_figures_and_what_is_wrong_with_them(client: Any) -> None:
    drawn, readme, _ = EncodersTab(client).refresh()
    for part in ("<dt>text → image</dt><dd>20.0 %</dd>", "untrained 30.0 %", "worse than untrained</span>", "6.6 M"):
        assert part in drawn
    assert re.search(r"shipped with \d+\.\d+<", drawn)
    assert ("Not evaluated" in drawn, readme) == (True, "")
    assert len(client.calls) == 2
    tab, selection = EncodersTab(client), EncoderSelection({})
    drawn = tab.select(selection, typed("find", "NE"))[0]
    assert ("1 of 2 encoders" in drawn, ">old<" in drawn, selection.current) == (True, False, {"find": "NE"})


def test_who_may_import_an_encoder_does_so_by_the_name_of_its_folder(client: Any) -> None:
    tab, selection = EncodersTab(client), EncoderSelection({})
    tab.select(selection, typed("import", "/data/CLIP b32/"))
    assert ("import_encoder", ("CLIP-b32", "/data/CLIP b32/"), {}) in client.calls
    assert selection.current == {"encoder": "enc_3"}
    client.answers["import_encoder"] = ApiError(422, "path_not_allowed", "outside of the data roots")
    selection.current = {}
    assert "outside of the data roots" in tab.select(selection, typed("import", "/etc"))[0]
    assert 'data-submit="import"' in tab.refresh()[0]
    client.answers["own_key"] = {"owner": "ada", "role": "submitter", "may_import": False}
    assert 'data-submit="import"' not in tab.refresh()[0]
    assert ("delete:" in tab.refresh(encoder="old")[0], "Evaluate" in tab.refresh(encoder="old")[0]) == (False, True)


def test_a_card_has_all_that_is_known_and_asks_the_service_thrice(client: Any) -> None:
    head, readme, below = EncodersTab(client).refresh(encoder="old")
    assert [name for name, _, _ in client.calls] == ["encoder_card", "metrics", "own_key"]
    assert "licence apache-2.0" in head
    assert 'name="collection" value="drawings"' in head
    formats = re.findall(r'href="encoder/enc_1/([^"]+)"', head)
    assert formats == ["README.md", "lcl.tar", "huggingface.tar", "timm.tar", "onnx.tar"]
    assert "?collection=drawings" in below
    assert "f00" in below
    assert "data-pick" not in readme
    assert ("--data-binary" in readme, "mermaid" in readme) == (True, False)
    assert readable("<a DATA-view='{}'>") == "<a data‑view='{}'>"
    own = {**CARD, "encoder": {**ENCODERS[1], "info": {"kind": "openclip"}}, "licence": None, "collections": []}
    client.answers["encoder_card"] = own
    head = EncodersTab(client).refresh(encoder="new")[0]
    assert re.findall(r'href="encoder/enc_2/([^"]+)"', head) == ["README.md", "lcl.tar"]
    assert "licence: none given" in head
    assert "No collection yet" in head


def test_two_chosen_rows_are_compared_and_both_evaluated_by_a_press(client: Any) -> None:
    tab, selection = EncodersTab(client), EncoderSelection({})
    assert "Choose two encoders first" in tab.select(selection, picked("compare:"))[0]
    for each in ("enc_1", "enc_2"):
        drawn = tab.select(selection, picked(f"check:{each}"))[0]
    assert drawn.count(" checked>") == 2
    drawn = tab.select(selection, picked("compare:"))[0]
    assert selection.current == {"encoder": "enc_1", "with": "enc_2"}
    assert "Not examined on the same data" in drawn
    assert 'data-pick="evaluate:enc_1,enc_2">Evaluate both' in drawn
    assert "Two evaluations are queued" in tab.select(selection, picked("evaluate:enc_1,enc_2"))[0]
    assert [args for name, args, _ in client.calls if name == "submit"] == [
        ("evaluate", {"encoder": each}) for each in ("enc_1", "enc_2")
    ]


def test_an_encoder_is_pinned_renamed_and_deleted_after_a_question(client: Any) -> None:
    tab, selection = EncodersTab(client), EncoderSelection({"encoder": "enc_1"})
    assert "Unpin" in tab.select(selection, picked("unpin:enc_1"))[0]
    assert "New name" in tab.select(selection, picked("rename:enc_1"))[0]
    tab.select(selection, picked('renaming:enc_1:{"text": "yours"}'))
    assert client.arguments_of("change_encoder") == [{"pinned": False}, {"name": "yours"}]
    assert "Delete this encoder?" in tab.select(selection, picked("delete:enc_1"))[0]
    assert client.arguments_of("delete_encoder") == []
    tab.select(selection, picked("deletion:enc_1"))
    assert (len(client.arguments_of("delete_encoder")), selection.current) == (1, {})


def test_encoders_say_when_there_is_none_or_no_service(service: Any, away: Exception) -> None:
    assert "No encoder yet" in EncodersTab(service(encoders=[], own_key={})).refresh()[0]
    unreachable = EncodersTab(service(encoders=away, own_key=away)).refresh()[0]
    assert ("no answer from" in unreachable, "data-reopen" in unreachable) == (True, True)
    gone = ApiError(404, "not_found", "there is no encoder 'x'")
    assert (
        "there is no encoder &#x27;x&#x27;"
        in EncodersTab(service(encoder_card=gone, own_key={})).refresh(encoder="x")[0]
    )


def test_the_better_one_is_bold_where_that_is_clear() -> None:
    def row(metric: str, left: float, right: float, interval: Any, p: float | None) -> Any:
        facts = {"left": left, "right": right, "difference": right - left, "interval": interval, "p": p}
        return {**RECALL, "metric": metric, **facts}

    refused = {**row("acc@1", 0.5, 0.6, None, None), "difference": None, "reason": "other settings: <source>"}
    rows = [
        row("IR@5", 0.2, 0.3, (0.05, 0.15), 0.0004), row("IR@1", 0.1, 0.11, (-0.02, 0.04), 0.4),
        row("IR median rank", 20, 30, (5, 15), 0.01), refused,
    ]  # fmt: skip
    rows[0]["left_interval"] = (0.1, 0.4)
    drawn = draw_differences(ENCODERS[0], ENCODERS[1], rows)
    body = {line.split("</th>")[0]: line for line in drawn.split('<th scope="row">')[1:]}
    assert "<td>20.0 %<small>10.0 to 40.0</small></td><td><b>30.0 %</b></td>" in body["IR@5"]
    assert "+10.0 %<small>5.0 to 15.0</small>" in body["IR@5"]
    assert "&lt; .001" in body["IR@5"]
    assert "<b>" not in body["IR@1"]
    assert "−2.0 to 4.0" in body["IR@1"]
    assert "<td><b>20</b></td><td>30</td>" in body["IR median rank"], "a low rank is a good one"
    assert "<td><small>other settings: &lt;source&gt;</small></td>" in body["acc@1"]
