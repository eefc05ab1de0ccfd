"""The Zero-shot tab's handlers against a service that answers from memory."""

from __future__ import annotations

import json
import re
import threading
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
from ui.common import PageSelection
from ui.tabs.zero_shot import (
    DEFAULT_TEMPLATES,
    MAX_RUNS,
    ZeroShotRun,
    ZeroShotTab,
    find_examples,
    parse_lines,
    parse_templates,
)
from ui.tabs.zero_shot_view import INVITATION, NO_CLASSES, NO_ENCODER, NO_IMAGES, draw_result

ENCODERS = [{"id": "enc_1", "name": "mine"}]
COLLECTION = {"id": "col_1", "name": "drawings", "images": 4, "encoder_id": "enc_1", "dataset": "sample"}
POINTS = [
    {"id": f"img_{n}", "caption": f"thing / {n}", "labels": {"group": ("a / b", "c")[n % 2], "one": "x"}}
    for n in range(4)
]


def zero_shot(encoder: str, images: Any, classes: Any, templates: Any, on_progress: Any) -> ZeroShotResult:
    """The first class for each image."""
    row = np.array([0.9, *[0.1 / (len(classes) - 1)] * (len(classes) - 1)])
    names = [name for name, _ in images]
    on_progress(len(names), None)
    return ZeroShotResult(tuple(classes), tuple(templates), names, [row] * len(names))


@pytest.fixture
def answers() -> dict[str, Any]:
    return {
        "encoders": ENCODERS, "encoder_figures": [], "collections": [COLLECTION], "zero_shot": zero_shot,
        "collection": {"images": 4}, "items": POINTS, "item_image": b"", "health": {"loading": 0},
    }  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    paths = []
    for number, name in enumerate(("fox/1.png", "cat/2.png")):
        path = Path(get_upload_folder()) / f"{number:032x}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"\x89PNG")
        paths.append(str(path))
    return paths


def selection() -> PageSelection[ZeroShotRun | None]:
    return PageSelection(None)


def finished(tab: ZeroShotTab, run: PageSelection[ZeroShotRun | None]) -> tuple[str, Any, gr.Timer]:
    assert run.current is not None
    run.current.wait(60)
    return tab.poll(run)


def parameters(view: str) -> dict[str, str]:
    return json.loads(unescape(re.findall('data-view="([^"]*)"', view)[0]))


def request_of(**address: str) -> Any:
    return type("Request", (), {"query_params": address, "cookies": {}})()


def opened(tab: ZeroShotTab, run: Any, /, *current: Any, **address: str) -> tuple[Any, ...]:
    return tab.open_address(request_of(**address), run, *(current or (None, None, "", "", DEFAULT_TEMPLATES)))


def test_folders_with_names_of_classes_give_accuracy_beside_chance(
    service: Any, answers: dict[str, Any], files: list[str]
) -> None:
    tab, run = ZeroShotTab(service(**answers)), selection()
    view, drawn, _, clock = tab.classify(run, None, files, "", "fox\ncat\n\n", "a {}\n{}")
    assert (clock.active, 'aria-busy="true"' in drawn) == (True, True) or run.current.is_done  # type: ignore[union-attr]
    assert parameters(view) == {"classes": "fox\ncat", "templates": "a {}\n{}"}
    drawn, download, clock = finished(tab, run)
    assert clock.active is False
    for words in ("<b>0.500</b>", "1 of 2 images with a label", "<dt>Chance</dt><dd>0.500</dd>", "[0.095, 0.905]"):
        assert words in drawn
    assert "not clearly above chance" in drawn
    assert "2 templates" in drawn
    assert "fox taken for fox: 1 of 1" in drawn
    assert "cat taken for fox: 1 of 1" in drawn
    file = download.value["path"] if isinstance(download.value, dict) else download.value.path
    assert Path(file).read_text().splitlines()[1].startswith("fox/1.png,fox,0.900000,fox,")


def test_cancelled_runs_count_until_they_end(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    """Each has a thread and its images until the service answers."""
    on = threading.Event()

    def slowly(*arguments: Any, on_progress: Any) -> ZeroShotResult:
        assert on.wait(60)
        return zero_shot(*arguments, on_progress)

    tab, run, started = ZeroShotTab(service(**answers | {"zero_shot": slowly})), selection(), []

    def classify() -> tuple[Any, ...]:
        return tab.classify(run, "enc_1", files, "", "dog\nbird", DEFAULT_TEMPLATES)

    try:
        for _ in range(MAX_RUNS):
            assert classify()[3].active
            started.append(run.current)
        _, drawn, _, clock = classify()
        assert "Wait for some" in drawn
        assert (clock.active, run.current) == (False, None)
    finally:
        on.set()
        for each in started:
            each.wait(60)
    assert classify()[3].active
    finished(tab, run)


def test_without_labels_there_is_no_accuracy(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    tab, run = ZeroShotTab(service(**answers)), selection()
    tab.classify(run, "enc_1", files, "", "dog\nbird", DEFAULT_TEMPLATES)
    drawn = finished(tab, run)[0]
    assert "lcl-accuracy" not in drawn
    assert "Confusion" not in drawn
    assert "Folders that are none of the classes: fox, cat; so there is no accuracy." in drawn


def test_what_is_wrong_in_the_lists_is_named_and_the_others_go_on(
    service: Any, answers: dict[str, Any], files: list[str]
) -> None:
    client = service(**answers)
    tab, run = ZeroShotTab(client), selection()
    tab.classify(run, "enc_1", files, "", f"fox\n{'x' * 201}\ncat\nfox", "a thing\na {}")
    drawn = finished(tab, run)[0]
    assert "Class “fox” is given 2 times." in drawn
    assert "is longer than 200 characters and left out" in drawn
    assert "Template “a thing” has no {} for the class and is left out." in drawn
    [(_, arguments, _)] = [call for call in client.calls if call[0] == "zero_shot"]
    assert arguments[2:] == (["fox", "cat"], ["a {}"])
    assert parse_lines("a\n b \n", "Class") == (["a", "b"], [])
    assert parse_templates("{}") == (["{}"], [])


def test_what_is_missing_is_said(service: Any, answers: dict[str, Any], files: list[str], away: Exception) -> None:
    tab = ZeroShotTab(service(**answers))
    shown = lambda *inputs: tab.classify(selection(), *inputs)[1]  # noqa: E731
    assert shown(None, None, "", "", "{}") == INVITATION
    assert shown(None, None, "", "a\nb", "{}") == NO_IMAGES
    assert shown(None, files, "", "a", "{}") == NO_CLASSES
    assert "Give at least one template" in shown(None, files, "", "a\nb", "x")
    assert "more than 5000 texts" in shown(None, files, "", "\n".join(map(str, range(2600))), "{}\na {}")
    assert (
        "no answer from" in ZeroShotTab(service(encoders=away)).classify(selection(), None, files, "", "a\nb", "{}")[1]
    )
    nobody = ZeroShotTab(service(**{**answers, "encoders": []}))
    assert nobody.classify(selection(), None, files, "", "a\nb", "{}")[1] == NO_ENCODER


def test_a_refusal_of_the_service_is_shown(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    refused = ApiError(422, "no_text_encoder", "this encoder reads images alone")
    tab, run = ZeroShotTab(service(**{**answers, "zero_shot": refused})), selection()
    tab.classify(run, "enc_1", files, "", "fox\ncat", "{}")
    drawn, download, _ = finished(tab, run)
    assert "this encoder reads images alone" in drawn
    assert download.visible is False


def test_a_newer_run_is_drawn_and_the_older_one_ends(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    import threading

    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(*arguments: Any, on_progress: Any) -> Any:
        if begun.is_set():
            return zero_shot(*arguments, on_progress=on_progress)
        begun.set()
        go_on.wait(60)
        try:
            on_progress(1, None)
        finally:
            ended.set()

    tab, run = ZeroShotTab(service(**{**answers, "zero_shot": slow})), selection()
    tab.classify(run, "enc_1", files, "", "fox\ncat", "{}")
    assert begun.wait(60)
    assert "Reading the names of the classes" in tab.poll(run)[0]
    first = run.current
    tab.classify(run, "enc_1", files, "", "cat\nfox", "{}")
    go_on.set()
    assert first is not None
    first.wait(60)
    assert ended.is_set()
    assert first.result is None
    assert "taken for cat" in finished(tab, run)[0]


def test_examples_are_labels_of_the_collection_with_images_of_each_class(service: Any, answers: dict[str, Any]) -> None:
    client = service(**answers)
    tab, run = ZeroShotTab(client), selection()
    [example] = find_examples(client)
    assert (example.label, example.classes) == ("group", ("a / b", "c"))
    files, sample, classes = tab.use_example(gr.EventData(None, {"pick": "group"}))
    assert (files, sample, classes) == (None, "group", "a / b\nc")
    view, *_ = tab.classify(run, "enc_1", files, sample, classes, DEFAULT_TEMPLATES)
    assert parameters(view) == {"encoder": "enc_1", "sample": "group", "classes": "a / b\nc"}
    drawn = finished(tab, run)[0]
    assert "4 images of the collection (the encoder may have been trained on them)" in drawn
    assert "2 of 4 images with a label" in drawn
    assert find_examples(service(**{**answers, "collections": []})) == []


def test_an_address_is_opened_and_not_twice(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    tab, run = ZeroShotTab(service(**answers)), selection()
    address = {"tab": "zero-shot", "encoder": "enc_1", "classes": "a / b\nc", "sample": "group", "templates": "a {}"}
    encoder, kept, sample, classes, templates, examples, view, *_ = opened(tab, run, **address)
    assert (encoder["value"], kept, sample, classes, templates) == ("enc_1", gr.skip(), "group", "a / b\nc", "a {}")
    assert "group" in examples
    assert parameters(view) == {name: value for name, value in address.items() if name != "tab"}
    assert "2 of 4" in finished(tab, run)[0]
    again = opened(tab, run, "enc_1", None, "group", "a / b\nc\n", "a {}", **address)
    assert set(map(str, again[6:])) == {str(gr.skip())}
    elsewhere = opened(tab, run, "enc_1", None, "group", "x", "a {}", tab="runs")
    assert elsewhere[2:5] == (gr.skip(),) * 3
    back = opened(tab, run, "enc_1", None, "group", "a / b\nc", "a {}", tab="zero-shot")
    assert back[2:5] == ("", "", DEFAULT_TEMPLATES)
    assert (parameters(back[6]), back[7], run.current) == ({}, INVITATION, None)
    lost = opened(tab, run, encoder="enc_gone", classes="a\nb")
    assert "There is no encoder &#x27;enc_gone&#x27;" in lost[7]


def test_an_opening_of_the_tab_alone_changes_no_field_and_ends_no_run(
    service: Any, answers: dict[str, Any], files: list[str]
) -> None:
    tab, run = ZeroShotTab(service(**answers)), selection()
    inputs = (run, "enc_1", files, "", "", DEFAULT_TEMPLATES)

    def classify_meanwhile() -> list[dict[str, Any]]:
        tab.classify(*inputs[:4], "fox\ncat", DEFAULT_TEMPLATES)
        return ENCODERS

    tab.client.answers["encoders"] = classify_meanwhile
    for address in ({"tab": "zero-shot"}, {"classes": "a / b\nc", "sample": "group"}):
        form = tab.open_link(request_of(**address), *inputs)
        assert form[1:5] == (gr.skip(),) * 4
        assert (form.view, form.results, form.clock) == (gr.skip(),) * 3
        assert "fox taken for fox" in finished(tab, run)[0]
    tab.client.answers["encoders"] = ENCODERS
    again = tab.open_address(request_of(tab="zero-shot"), run, None, files, "", "fox\ncat", DEFAULT_TEMPLATES)
    assert again.classes == gr.skip(), "no opening has succeeded before"
    assert tab.open_link(request_of(classes="a / b\nc", sample="group"), *inputs).classes == "a / b\nc"
    finished(tab, run)


def test_lists_that_are_too_long_for_an_address_stay_in_the_form(service: Any, answers: dict[str, Any]) -> None:
    tab = ZeroShotTab(service(**answers))
    classes = "\n".join(f"class {number}" for number in range(400))
    assert parameters(tab.mark("enc_1", "", classes, DEFAULT_TEMPLATES)) == {"encoder": "enc_1"}
    kept = opened(tab, selection(), "enc_1", None, "", classes, DEFAULT_TEMPLATES, tab="zero-shot", encoder="enc_1")
    assert kept[3] == gr.skip()
    encoded = "\n".join(
        f"種類 {number}" for number in range(150)
    )  # some 1,000 characters, several times as many encoded
    assert parameters(tab.mark("enc_1", "", encoded, DEFAULT_TEMPLATES)) == {"encoder": "enc_1"}


def test_folders_become_classes_where_none_are_named(service: Any, answers: dict[str, Any], files: list[str]) -> None:
    tab = ZeroShotTab(service(**answers))
    assert tab.use_files(files, " ") == (files, "", "cat\nfox")
    assert tab.use_files(files, "bird")[2] == gr.skip()
    assert tab.use_files(files[:1], "")[2] == gr.skip(), "one folder is no list of classes"


def test_files_that_are_left_out_and_long_tables_are_counted() -> None:
    row = np.array([0.3, 0.7])
    names = [Path(f"{number}.png") for number in range(205)]
    skipped = [Skipped(Path(f"<{number}>"), "input.0: no image") for number in range(25)]
    result = ZeroShotResult(("<a>", "b"), ("{}",), names, [row] * 205, skipped)
    drawn = draw_result(result, {}, "of yours", [], 1.0)
    assert "and 5 more in the file" in drawn
    assert "25 files left out" in drawn
    assert "&lt;0&gt;</b> no image" in drawn
    assert "and 5 more</li>" in drawn
    assert "<a>" not in drawn
