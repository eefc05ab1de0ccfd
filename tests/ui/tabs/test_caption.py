"""The Caption tab: an image is captioned as the form says, and addresses name the encoder."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from api.client import ApiError
from ui.common import MAX_IMAGE_BYTES, PageSelection
from ui.tabs.caption import CaptionTab


@pytest.fixture
def sample_image(tmp_path: Path) -> str:
    path = tmp_path / "mine.png"
    Image.new("RGBA", (30, 20), "crimson").save(path)
    return str(path)


def test_an_image_is_captioned_as_the_form_says(service: Any, sample_image: str) -> None:
    client = service(caption=["a <red> car"])
    drawn, written = CaptionTab(client).caption("enc", sample_image, "before", "the", 12, 4)
    assert ("a &lt;red&gt; car" in drawn, written) == (True, True)
    assert client.arguments_of("caption") == [
        {"max_new_tokens": 12, "num_beams": 4, "prompt": "the", "context": "before"}
    ]
    CaptionTab(client).caption("enc", sample_image, " ", "", 12, 1)
    assert client.arguments_of("caption")[-1] == {"max_new_tokens": 12, "num_beams": 1}
    assert "no words" in CaptionTab(service(caption=[""])).caption("enc", sample_image, "", "", 12, 1)[0]


def test_why_there_is_no_caption_is_said(service: Any, sample_image: str, away: Exception, tmp_path: Path) -> None:
    unreadable = ApiError(422, "image_unreadable", "images.0: the image cannot be decoded", "images.0")
    for answers, expected in (
        ({"caption": unreadable}, "not an image"),
        ({"caption": away}, "no answer from"),
        ({"encoders": [], "encoder_figures": []}, "No encoder yet"),
    ):
        encoder = "enc" if "caption" in answers else None
        drawn, written = CaptionTab(service(**answers)).caption(encoder, sample_image, "", "", 12, 4)
        assert (expected in drawn, written) == (True, False)
    assert "Choose an image first" in CaptionTab(service()).caption("enc", None, "", "", 12, 4)[0]
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    client = service(caption=["no"])
    assert "larger than 16 MiB" in CaptionTab(client).caption("enc", file.name, "", "", 12, 4)[0]
    assert client.arguments_of("caption") == []


def test_the_address_has_the_encoder_and_one_that_is_gone_is_said(service: Any) -> None:
    encoders = [{"id": f"enc_{name}", "name": name, "info": {}} for name in ("best", "other")]
    tab = CaptionTab(service(encoders=encoders, encoder_figures=[], collections=[]))

    def opened(current: str | None, **parameters: str) -> Any:
        request: Any = SimpleNamespace(query_params={"tab": "caption", **parameters}, cookies={})
        encoder, _, _, lost, message, view = tab.refresh(False, current, True, request)
        assert message == gr.skip(), "a caption that is shown stays"
        return encoder, lost, view

    encoder, message, view = opened("enc_best", on="enc_other")
    assert (encoder["value"], message) == ("enc_other", "")
    assert json.loads(unescape(re.findall('data-view="(.*?)"', view)[0])) == {"on": "enc_other"}
    assert view == tab.mark("enc_other"), "a choice of the reader is marked in the same way"
    encoder, message, view = opened("enc_other", on="enc_gone")
    assert "value" not in encoder, "another may have been chosen meanwhile"
    assert view == gr.skip()
    assert "There is no encoder &#x27;enc_gone&#x27;." in message
    assert opened("enc_other")[1] == "", "the next opening says it no more"


def test_a_caption_stays_while_the_service_cannot_be_reached(service: Any, away: Exception) -> None:
    tab = CaptionTab(service(encoders=away, collections=[]))
    assert "data-reopen" in tab.refresh(False, None, False)[-2]
    assert tab.refresh(False, "enc_1", False)[-2] == gr.skip()
    assert tab.refresh(True, None, False)[-2] == gr.skip(), "it was written without a choice"
    tab.client.answers |= {"encoders": [{"id": "enc_1", "name": "one"}], "encoder_figures": []}
    assert tab.refresh(True, None, False)[-2] == gr.skip()
    cleared, written = tab.clear(turn := PageSelection(0))
    assert (turn.current, written) == (1, False)
    assert cleared == tab.refresh(False, None, False)[-2]


def test_a_sample_without_a_caption_is_named_by_its_id(service: Any) -> None:
    items = [{"id": "i1", "caption": "a fox"}, {"id": "i2", "caption": ""}]
    client = service(collections=[{"id": "col_1", "name": "mine"}], items=items)
    names = re.findall('aria-label="(.*?)"', CaptionTab(client).sample_images())
    assert names == ["Use the image a fox", "Use the image i2"]
