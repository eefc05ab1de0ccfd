"""The Try tab's handlers against a service that answers from memory."""

from __future__ import annotations

import base64
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio.utils import get_upload_folder

from api.client import ApiError
from api.client.payloads import Skipped
from api.client.zero_shot import ZeroShotResult
from ui.common import MAX_IMAGE_BYTES
from ui.tabs.playground import DEFAULT_TEMPLATES, INVITATION, NO_ENCODER, NO_IMAGES, PlaygroundTab, draw_result

ENCODERS = [{"id": "enc_1", "name": "mine", "info": {}}]
COLLECTION = {"id": "col_1", "name": "drawings", "images": 4, "encoder_id": "enc_1", "label_types": {}}
COLLECTION |= {"labels": {"group": ["a / b", "c"], "one": ["x"]}, "label_images": {"group": [3, 2], "one": [4]}}
POINTS = [
    {"id": f"img_{n}", "caption": f"thing / {n}", "labels": {"group": ("a / b", "c")[n % 2], "one": "x"}}
    for n in range(4)
]
SKIP = gr.skip()


def zero_shot(encoder: str, images: Any, classes: Any, templates: Any) -> ZeroShotResult:
    """The first class for each image."""
    row = np.array([0.9, *[0.1 / (len(classes) - 1)] * (len(classes) - 1)])
    names = [name for name, _ in images]
    return ZeroShotResult(tuple(classes), tuple(templates), names, [row] * len(names))


@pytest.fixture
def answers() -> dict[str, Any]:
    return {
        "encoders": ENCODERS, "encoder_figures": [], "collections": [COLLECTION], "zero_shot": zero_shot,
        "collection": COLLECTION, "items": POINTS, "item_image": b"",
        "item": {"captions": ["a fox"]},
        "caption": lambda _, images, **__: ["a <red> car"] * len(images),
    }  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    paths = []
    for number, name in enumerate(("fox/1.png", "cat/2.png")):
        path = Path(get_upload_folder()) / "key" / "session" / "upload" / str(number) / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"\x89PNG")
        paths.append(str(path))
    return paths


def parameters(view: str) -> dict[str, str]:
    return json.loads(unescape(re.findall('data-view="([^"]*)"', view)[0]))


def request_of(**address: str) -> Any:
    return type("Request", (), {"query_params": {"tab": "try"} | address, "cookies": {}})()


def opened(tab: PlaygroundTab, shown: Any = None, *form: Any, **address: str) -> dict[str, Any]:
    names = ("encoder", "task", "files", "classes", "templates", "examples", "shown", "view", "results")
    form = form or (None, "caption", None, "", DEFAULT_TEMPLATES)
    return dict(zip(names, tab.open(shown, *form, request_of(**address)), strict=True))


def caption(client: Any, files: Any, shown: Any = None, **options: Any) -> str:
    return PlaygroundTab(client).run(shown, "enc_1", "caption", files, "", "{}", **options)[-1]


def classify(client: Any, files: Any, classes: str, templates: str = "{}", encoder: Any = "enc_1") -> tuple[str, str]:
    """Address and results."""
    return PlaygroundTab(client).run(None, encoder, "classify", files, classes, templates)[-2:]


def test_images_are_captioned_as_the_form_says(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    client = service(**answers)
    drawn = caption(client, files, context="before", prompt="the", beams=2)
    assert drawn.count("a &lt;red&gt; car") == 2
    assert "?q=a%20%3Cred%3E%20car" in drawn
    assert client.arguments_of("caption") == [{"num_beams": 2, "prompt": "the", "context": "before"}] * 2
    assert "no words" in caption(service(**answers | {"caption": [""]}), files)


def test_one_image_that_cannot_be_captioned_is_left_out_alone(
    service: Any, answers: dict[str, Any], files: list[str], away: Exception
) -> None:
    refusals = iter([ApiError(422, "image_unreadable", "images.0: the image cannot be decoded", "images.0")])

    def answer(*_: Any, **__: Any) -> list[str]:
        if refusal := next(refusals, None):
            raise refusal
        return ["fine"]

    drawn = caption(service(**answers | {"caption": answer}), files)
    assert drawn.count("?q=fine") == 1
    assert "<b>fox/1.png</b> the image cannot be decoded" in drawn
    assert "no answer from" in caption(service(**answers | {"caption": away}), files)
    with Path(files[0]).open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    client = service(**answers)
    assert "larger than 16 MiB" in caption(client, files)
    assert len(client.arguments_of("caption")) == 1


def test_a_sample_image_is_captioned_and_named_by_its_caption(service: Any, answers: dict[str, Any]) -> None:
    answers["items"] = [{"id": "i1", "caption": "a <fox>"}, {"id": "i2", "caption": ""}]
    *_, examples = PlaygroundTab(service(**answers)).show_task("caption")
    assert re.findall('alt="(.*?)"', examples) == ["Use the image a &lt;fox&gt;", "Use the image i2"]
    assert 'href="?tab=try&amp;sample=col_1%3Ai1"' in examples
    form = opened(PlaygroundTab(service(**answers)), sample="col_1:i1")
    assert (parameters(form["view"]), form["shown"]) == ({"sample": "col_1:i1"},) * 2
    assert "<span>a fox</span>" in form["results"]
    assert "a &lt;red&gt; car" in form["results"]
    assert 'aria-current=true><img src="media/col_1/i1"' in form["examples"]
    assert "a &lt;red&gt; car" in caption(service(**answers), None, form["shown"]), "the button asks for it again"


def test_folders_with_names_of_classes_give_accuracy_beside_chance(
    service: Any, answers: dict[str, Any], files: list[str]
) -> None:
    view, drawn = classify(service(**answers), files, "fox\ncat\n\n", "a {}\n{}", None)
    address = {"do": "classify", "encoder": "enc_1", "classes": "fox\ncat", "templates": "a {}\n{}"}
    assert parameters(view) == address
    for words in ("<b>1 of 2 right, 50.0 %</b> (9.5–90.5)", "chance 50.0 %", "not clearly above it", "90 %</em>"):
        assert words in drawn
    assert "It must choose one of your classes." in drawn
    assert "fox taken for fox: 1 of 1" in drawn
    assert "cat taken for fox: 1 of 1" in drawn
    [predictions] = re.findall('href="data:text/csv;base64,([^"]*)" download="predictions.csv"', drawn)
    assert base64.b64decode(predictions).splitlines()[1].startswith(b"fox/1.png,fox,0.900000,fox,")


def test_without_labels_there_is_no_accuracy(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    drawn = classify(service(**answers), files, "dog\nbird")[1]
    assert "right" not in drawn
    assert "Confusion" not in drawn
    some = classify(service(**answers), files, "fox\nbird")[1]
    assert "1 image in no folder of a class" in some


def test_folders_become_classes_where_none_are_named(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    assert "2 of 2" not in classify(service(**answers), files, " \n")[1]
    assert parameters(classify(service(**answers), files, "")[0])["classes"] == "cat\nfox"
    assert parameters(classify(service(**answers), files, "bird\nbird\ndog")[0])["classes"] == "bird\ndog"


def test_what_is_missing_is_said(service: Any, answers: dict[str, Any], files: list[str], away: Exception) -> None:
    client = service(**answers)
    assert caption(client, None) == classify(client, None, "a\nb")[1] == NO_IMAGES
    answers["zero_shot"] = ApiError(422, "no_text_encoder", "this encoder reads images alone")
    assert "this encoder reads images alone" in classify(service(**answers), files, "a\nb")[1]
    assert "more than 5000 texts" in classify(client, files, "\n".join(map(str, range(2600))), "{}\na {}")[1]
    assert "no answer from" in classify(service(encoders=away), files, "a\nb", encoder=None)[1]
    assert classify(service(**{**answers, "encoders": []}), files, "a\nb", encoder=None)[1] == NO_ENCODER


def test_examples_are_labels_of_the_collection_with_images_of_each_class(service: Any, answers: dict[str, Any]) -> None:
    tab = PlaygroundTab(service(**answers))
    *_, examples = tab.show_task("classify")
    assert re.findall("<b>(.*?)</b> (.*?)<", examples) == [("group", "a / b, c")], "of one value is no choice"
    address = {"do": "classify", "sample": "group"}
    form = opened(tab, **address)
    assert (form["task"], form["classes"], parameters(form["view"])) == ("classify", "a / b\nc", address)
    assert "2 of 4 right" in form["results"]
    assert NO_IMAGES in opened(tab, do="classify", sample="gone")["results"]
    assert PlaygroundTab(service(**answers | {"collections": []})).show_task("classify")[-1] == ""


def test_an_address_is_opened_and_not_twice(service: Any, answers: dict[str, Any], away: Exception) -> None:
    tab = PlaygroundTab(service(**answers))
    address = {"do": "classify", "encoder": "enc_1", "sample": "group", "classes": "c\na / b", "templates": "a {}"}
    form = opened(tab, **address)
    assert (form["encoder"]["value"], form["classes"], form["templates"]) == ("enc_1", "c\na / b", "a {}")
    assert "2 of 4" in form["results"]
    typed = ("enc_1", "classify", None, "what is typed", "{}")
    for other in (address, {}):
        again = opened(tab, address, *typed, **other) if other else tab.open(address, *typed, request_of(tab="map"))
        assert list(again.values() if isinstance(again, dict) else again)[1:5] == [SKIP] * 4
    back = opened(tab, address, *typed)
    assert (back["task"], back["results"], back["shown"]) == ("caption", INVITATION, {})
    assert "There is no encoder &#x27;gone&#x27;" in opened(tab, encoder="gone")["results"]
    tab.client.answers["encoders"] = away
    assert "data-reopen" in opened(tab)["results"]
    assert opened(tab, address, *typed)["results"] == SKIP, "what was drawn stays"


def test_lists_that_are_too_long_for_an_address_stay_in_the_form(
    service: Any, answers: dict[str, Any], files: list[str]
) -> None:
    classes = "\n".join(f"種類 {number}" for number in range(150))  # several times as many characters encoded
    shown, *_ = PlaygroundTab(service(**answers)).run(None, "enc_1", "classify", files, classes, DEFAULT_TEMPLATES)
    assert shown == {"do": "classify", "encoder": "enc_1"}
    kept = opened(PlaygroundTab(service(**answers)), shown, "enc_1", "classify", files, classes, "{}", **shown)
    assert kept["classes"] == SKIP


def test_files_that_are_left_out_are_counted() -> None:
    row = np.array([0.3, 0.7])
    skipped = [Skipped(Path(f"<{number}>"), "input.0: no image") for number in range(25)]
    result = ZeroShotResult(("<a>", "b"), ("{}",), [Path("1.png")], [row], skipped)
    drawn = draw_result(result, {Path("1.png"): b""})
    assert "25 files left out" in drawn
    assert "&lt;0&gt;</b> no image" in drawn
    assert "and 5 more</li>" in drawn
    assert "<a>" not in drawn
