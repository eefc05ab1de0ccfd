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
from ui.tabs.inference import (
    DEFAULT_TEMPLATES,
    INVITATION,
    NO_CLASSES,
    NO_ENCODER,
    NO_IMAGES,
    InferenceTab,
    draw_result,
    find_examples,
    parse_lines,
    parse_templates,
)

ENCODERS = [{"id": "enc_1", "name": "mine", "info": {}}]
COLLECTION = {"id": "col_1", "name": "drawings", "images": 4, "encoder_id": "enc_1", "dataset": "sample"}
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
        "collection": {"images": 4}, "items": POINTS, "item_image": b"",
        "caption": lambda _, images, **__: ["a <red> car"] * len(images),
    }  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    paths = []
    for number, name in enumerate(("fox/1.png", "cat/2.png")):
        path = Path(get_upload_folder()) / "key" / "session" / f"{number:032x}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"\x89PNG")
        paths.append(str(path))
    return paths


def parameters(view: str) -> dict[str, str]:
    return json.loads(unescape(re.findall('data-view="([^"]*)"', view)[0]))


def request_of(**address: str) -> Any:
    return type("Request", (), {"query_params": {"tab": "try"} | address, "cookies": {}})()


def opened(tab: InferenceTab, *current: Any, **address: str) -> Any:
    return tab.open_address(request_of(**address), *(current or (None, "caption", None, "", "", DEFAULT_TEMPLATES)))


def classify(tab: InferenceTab, files: Any, classes: str, templates: str = "{}", encoder: Any = "enc_1") -> Any:
    return tab.run(encoder, "classify", files, "", classes, templates)


def test_images_are_captioned_as_the_form_says(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    client = service(**answers)
    view, drawn = InferenceTab(client).run("enc_1", "caption", files, "", "", "{}", "before", "the", 12, 4)
    assert parameters(view) == {"encoder": "enc_1"}
    assert drawn.count("a &lt;red&gt; car") == 2
    assert "?q=a%20%3Cred%3E%20car" in drawn
    options = {"max_new_tokens": 12, "num_beams": 4, "prompt": "the", "context": "before"}
    assert client.arguments_of("caption") == [options], "one request for both"
    answers["caption"] = ["", ""]
    assert "no words" in InferenceTab(service(**answers)).run(None, "caption", files, "", "", "{}")[1]


def test_one_image_that_cannot_be_captioned_is_left_out_alone(
    service: Any, answers: dict[str, Any], files: list[str], away: Exception
) -> None:
    refusals = iter([ApiError(422, "image_unreadable", "images.1: the image cannot be decoded", "images.1")])

    def caption(_: str, images: Any, **__: Any) -> list[str]:
        if refusal := next(refusals, None):
            raise refusal
        return ["fine"] * len(images)

    drawn = InferenceTab(service(**answers | {"caption": caption})).run("enc_1", "caption", files, "", "", "{}")[1]
    assert "fine" in drawn
    assert "<b>cat/2.png</b> the image cannot be decoded" in drawn
    refusals = iter([ApiError(422, "too_many_items", "the images have too many pixels together", "images")])
    client = service(**answers | {"caption": caption})
    drawn = InferenceTab(client).run("enc_1", "caption", files, "", "", "{}")[1]
    assert (drawn.count("?q=fine"), len(client.arguments_of("caption"))) == (2, 3), "one by one after the refusal"
    with Path(files[0]).open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    client = service(**answers)
    assert "larger than 16 MiB" in InferenceTab(client).run("enc_1", "caption", files, "", "", "{}")[1]
    assert len(client.arguments_of("caption")) == 1
    drawn = InferenceTab(service(**answers | {"caption": away})).run("enc_1", "caption", files, "", "", "{}")[1]
    assert "no answer from" in drawn


def test_a_sample_image_is_captioned_and_named_by_its_caption(service: Any, answers: dict[str, Any]) -> None:
    answers["items"] = [{"id": "i1", "caption": "a fox"}, {"id": "i2", "caption": ""}]
    client = service(**answers)
    tab = InferenceTab(client)
    *_, examples = tab.show_task("caption")
    assert re.findall('aria-label="(.*?)"', examples) == ["Use the image a fox", "Use the image i2"]
    files, sample, classes = tab.use_example(gr.EventData(None, {"pick": "col_1:i1"}))
    assert (files, sample, classes) == (None, "col_1:i1", SKIP)
    view, drawn = tab.run("enc_1", "caption", files, sample, "", "{}")
    assert parameters(view) == {"encoder": "enc_1", "sample": "col_1:i1"}
    assert "a &lt;red&gt; car" in drawn


def test_folders_with_names_of_classes_give_accuracy_beside_chance(
    service: Any, answers: dict[str, Any], files: list[str]
) -> None:
    view, drawn = classify(InferenceTab(service(**answers)), files, "fox\ncat\n\n", "a {}\n{}", None)
    assert parameters(view) == {"do": "classify", "classes": "fox\ncat", "templates": "a {}\n{}"}
    for words in ("<b>0.500</b>", "1 of 2 images with a label", "<dt>Chance</dt><dd>0.500</dd>", "[0.095, 0.905]"):
        assert words in drawn
    assert "not clearly above chance" in drawn
    assert "2 templates" in drawn
    assert "fox taken for fox: 1 of 1" in drawn
    assert "cat taken for fox: 1 of 1" in drawn
    [predictions] = re.findall('href="data:text/csv;base64,([^"]*)" download="predictions.csv"', drawn)
    assert base64.b64decode(predictions).splitlines()[1].startswith(b"fox/1.png,fox,0.900000,fox,")


def test_without_labels_there_is_no_accuracy(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    drawn = classify(InferenceTab(service(**answers)), files, "dog\nbird", DEFAULT_TEMPLATES)[1]
    assert "lcl-accuracy" not in drawn
    assert "Confusion" not in drawn
    assert "Folders that are none of the classes: fox, cat; so there is no accuracy." in drawn


def test_what_is_wrong_in_the_lists_is_named_and_the_others_go_on(
    service: Any, answers: dict[str, Any], files: list[str]
) -> None:
    client = service(**answers)
    drawn = classify(InferenceTab(client), files, f"fox\n{'x' * 201}\ncat\nfox", "a thing\na {}")[1]
    assert "Class “fox” is given 2 times." in drawn
    assert "is longer than 200 characters and left out" in drawn
    assert "Template “a thing” has no {} for the class and is left out." in drawn
    [(_, arguments, _)] = [call for call in client.calls if call[0] == "zero_shot"]
    assert arguments[2:] == (["fox", "cat"], ["a {}"])
    assert parse_lines("a\n b \n", "Class") == (["a", "b"], [])
    assert parse_templates("{}") == (["{}"], [])


def test_what_is_missing_is_said(service: Any, answers: dict[str, Any], files: list[str], away: Exception) -> None:
    tab = InferenceTab(service(**answers))
    assert classify(tab, None, "")[1] == INVITATION
    assert classify(tab, None, "a\nb")[1] == tab.run("enc_1", "caption", None, "", "", "")[1] == NO_IMAGES
    assert classify(tab, files, "a")[1] == NO_CLASSES
    assert "Give at least one template" in classify(tab, files, "a\nb", "x")[1]
    assert "more than 5000 texts" in classify(tab, files, "\n".join(map(str, range(2600))), "{}\na {}")[1]
    assert "no answer from" in classify(InferenceTab(service(encoders=away)), files, "a\nb", encoder=None)[1]
    nobody = InferenceTab(service(**{**answers, "encoders": []}))
    assert classify(nobody, files, "a\nb", encoder=None)[1] == NO_ENCODER


def test_a_refusal_of_the_service_is_shown(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    refused = ApiError(422, "no_text_encoder", "this encoder reads images alone")
    _, drawn = classify(InferenceTab(service(**{**answers, "zero_shot": refused})), files, "fox\ncat")
    assert "this encoder reads images alone" in drawn


def test_examples_are_labels_of_the_collection_with_images_of_each_class(service: Any, answers: dict[str, Any]) -> None:
    client = service(**answers)
    tab = InferenceTab(client)
    [example] = find_examples(client)
    assert (example.label, example.classes) == ("group", ("a / b", "c"))
    files, sample, classes = tab.use_example(gr.EventData(None, {"pick": "group"}))
    assert (files, sample, classes) == (None, "group", "a / b\nc")
    view, drawn = tab.run("enc_1", "classify", files, sample, classes, DEFAULT_TEMPLATES)
    assert parameters(view) == {"do": "classify", "encoder": "enc_1", "sample": "group", "classes": "a / b\nc"}
    assert "4 images of the collection (the encoder may have been trained on them)" in drawn
    assert "2 of 4 images with a label" in drawn
    assert find_examples(service(**{**answers, "collections": []})) == []


def test_an_address_is_opened_and_not_twice(service: Any, answers: dict[str, Any]) -> None:
    tab = InferenceTab(service(**answers))
    address = {"do": "classify", "encoder": "enc_1", "classes": "a / b\nc", "sample": "group", "templates": "a {}"}
    form = opened(tab, **address)
    assert (form.encoder["value"], form.files) == ("enc_1", SKIP)
    assert form[1:6] == ("classify", SKIP, "group", "a / b\nc", "a {}")
    assert "group" in form.examples
    assert parameters(form.view) == address
    assert "2 of 4" in form.results
    again = opened(tab, "enc_1", "classify", None, "group", "a / b\nc\n", "a {}", **address)
    assert (again.classes, again.results) == (SKIP, SKIP)
    back = opened(tab, "enc_1", "classify", None, "group", "a / b\nc", "a {}")
    assert back[1:6] == ("caption", SKIP, "", "", DEFAULT_TEMPLATES)
    assert (parameters(back.view), back.results) == ({"encoder": "enc_1"}, NO_IMAGES)
    assert "There is no encoder &#x27;enc_gone&#x27;" in opened(tab, encoder="enc_gone").results


def test_an_opening_of_the_tab_alone_changes_no_field(
    service: Any, answers: dict[str, Any], files: list[str], away: Exception
) -> None:
    tab = InferenceTab(service(**answers))
    form = ("enc_1", "classify", files, "", "fox\ncat", DEFAULT_TEMPLATES)
    for found in (tab.open_link(request_of(), *form), tab.open_address(request_of(), None, *form[1:])):
        assert found[1:6] == (SKIP,) * 5
        assert (found.view, found.results) == (SKIP, SKIP)
    assert tab.open_link(request_of(classes="a / b\nc", sample="group"), *form).classes == "a / b\nc"
    tab.client.answers["encoders"] = away
    assert "data-reopen" in tab.open_link(request_of(), None, *form[1:]).results
    assert tab.open_link(request_of(), *form).results == SKIP, "what was drawn stays"


def test_lists_that_are_too_long_for_an_address_stay_in_the_form(service: Any, answers: dict[str, Any]) -> None:
    tab = InferenceTab(service(**answers))
    short = {"do": "classify", "encoder": "enc_1"}
    classes = "\n".join(f"class {number}" for number in range(400))
    assert parameters(tab.mark("enc_1", "classify", "", classes, DEFAULT_TEMPLATES)) == short
    kept = opened(tab, "enc_1", "classify", None, "", classes, DEFAULT_TEMPLATES, **short)
    assert kept.classes == SKIP
    encoded = "\n".join(f"種類 {number}" for number in range(150))  # several times as many characters encoded
    assert parameters(tab.mark("enc_1", "classify", "", encoded, DEFAULT_TEMPLATES)) == short


def test_folders_become_classes_where_none_are_named(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    tab = InferenceTab(service(**answers))
    assert tab.use_files(files, " ") == (files, "", "cat\nfox")
    assert tab.use_files(files, "bird")[2] == SKIP
    assert tab.use_files(files[:1], "")[2] == SKIP, "one folder is no list of classes"


def test_files_that_are_left_out_are_counted() -> None:
    row = np.array([0.3, 0.7])
    skipped = [Skipped(Path(f"<{number}>"), "input.0: no image") for number in range(25)]
    result = ZeroShotResult(("<a>", "b"), ("{}",), [Path("1.png")], [row], skipped)
    drawn = draw_result(result, {}, "of yours", [], 1.0)
    assert "25 files left out" in drawn
    assert "&lt;0&gt;</b> no image" in drawn
    assert "and 5 more</li>" in drawn
    assert "<a>" not in drawn
