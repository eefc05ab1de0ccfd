"""The Caption tab: words as they come, the ways that were chosen, and where the encoder looks."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext
from PIL import Image

from api.client import ApiError, TextDelta
from ui.common import MAX_IMAGE_BYTES, PageSelection
from ui.sessions import SESSION_SCOPE_KEY, SessionStore
from ui.tabs.caption import MAX_STREAMS, CaptionTab, draw_attention, peak_position

SECONDS = 30  # a deadline, not a duration
BOTH = ["Greedy", "Nucleus sampling"]
CHOICES = (12, 4, 0.8, 0.7, 3)
LOOK = {"grid": [2, 3], "box": [0.0, 0.0, 1.0, 1.0], "mean": [[0.1, 0.1, 0.5], [0.1, 0.1, 0.1]]}


@pytest.fixture
def sample_image(tmp_path: Path) -> str:
    path = tmp_path / "mine.png"
    Image.new("RGBA", (30, 20), "crimson").save(path)
    return str(path)


def telling(*pieces: TextDelta) -> Callable[..., Iterator[TextDelta]]:
    return lambda *_, **__: (piece for piece in pieces)


def written(tab: CaptionTab, selection: PageSelection[Any], *requests: Any) -> str:
    """What is shown when all has been written."""
    _, clock = tab.caption(selection, *requests)
    assert clock.active
    selection.current.wait(SECONDS)
    drawn, clock = tab.poll(selection)
    assert not clock.active
    return drawn


def test_each_way_that_was_chosen_is_asked_for(service: Any, sample_image: str) -> None:
    client = service(
        stream_captions=telling(TextDelta(0, "a <red>"), TextDelta(0, " car"), TextDelta(0, "a <red> car", whole=True))
    )
    drawn = written(CaptionTab(client), PageSelection(None), "enc", sample_image, BOTH, "before", "the", *CHOICES)
    shared = {"max_new_tokens": 12, "prompt": "the", "context": "before"}
    requests = sorted(client.arguments_of("stream_captions"), key=len)
    assert requests == [{**shared, "num_beams": 1}, {**shared, "top_p": 0.8, "temperature": 0.7, "seed": 3}]
    assert drawn.count("a &lt;red&gt; car") == 2
    assert drawn.count(" ms</footer>") == 2


def test_words_are_shown_while_they_are_written_and_another_image_ends_that(service: Any, sample_image: str) -> None:
    on, closed, heard = threading.Event(), threading.Event(), threading.Event()

    def slowly(*_: Any, **__: Any) -> Iterator[TextDelta]:
        try:
            yield TextDelta(0, "a red")
            heard.set()
            assert on.wait(SECONDS)
            yield TextDelta(0, " car")
            yield TextDelta(0, "too far")
        finally:
            closed.set()

    tab, selection = CaptionTab(service(stream_captions=slowly)), PageSelection(None)
    first, _ = tab.caption(selection, "enc", sample_image, ["Greedy"], " ", "", *CHOICES)
    assert 'aria-busy="true"' in first
    assert heard.wait(SECONDS)
    drawn, clock = tab.poll(selection)
    assert "a red<i" in drawn
    assert "writing" in drawn
    assert clock == gr.skip()
    sheet = selection.current
    assert "Captions appear here" in tab.clear(selection, PageSelection(0))[0]
    on.set()
    assert closed.wait(SECONDS)
    sheet.wait(SECONDS)
    assert "too far" not in sheet.draw()
    assert tab.poll(selection)[0] == gr.skip()


def test_one_way_that_fails_does_not_take_the_others_along(service: Any, sample_image: str, away: Exception) -> None:
    def caption(*_: Any, **decoding: Any) -> Iterator[TextDelta]:
        if decoding.get("num_beams") == 4:
            raise away
        yield TextDelta(0, "fine", whole=True)

    tab = CaptionTab(service(stream_captions=caption))
    drawn = written(tab, PageSelection(None), "enc", sample_image, ["Greedy", "Beam search"], "", "", *CHOICES)
    assert "fine" in drawn
    assert "no answer from" in drawn


def test_what_is_no_image_is_said_once(service: Any, sample_image: str) -> None:
    unreadable = ApiError(422, "image_unreadable", "images.0: the image cannot be decoded", "images.0")
    tab = CaptionTab(service(stream_captions=unreadable, attention=unreadable))
    assert written(tab, PageSelection(None), "enc", sample_image, BOTH, "", "", *CHOICES).count("not an image") == 1
    assert tab.attend(PageSelection(0), "enc", sample_image, True) == ""


def test_where_the_encoder_looks_is_shown_when_that_is_wanted(service: Any, sample_image: str) -> None:
    client = service(attention=[{**LOOK, "heads": [LOOK["mean"], LOOK["mean"]]}])
    tab = CaptionTab(client)
    assert tab.attend(PageSelection(0), "enc", sample_image, False) == ""
    assert client.calls == []
    drawn = tab.attend(PageSelection(0), "enc", sample_image, True)
    assert "Half of the weight lies on 1 of 6 patches" in drawn
    assert re.findall(r'aria-label="(.*?)"', drawn) == [
        "Mean of the heads: most weight at the upper right",
        "Each head",
        "Head 1: most weight at the upper right",
        "Head 2: most weight at the upper right",
    ]
    foreign = service(attention=ApiError(422, "no_attention", "this encoder pools patches in its own way", "model"))
    assert "pools patches in its own way" in CaptionTab(foreign).attend(PageSelection(0), "enc", sample_image, True)


def test_the_newest_attention_map_is_drawn(service: Any, sample_image: str) -> None:
    tab, turn, newer = CaptionTab(service()), PageSelection(0), []

    def attention(encoder: str, _: Any) -> list[Any]:
        if encoder == "slow" and not newer:
            newer.append(tab.attend(turn, "quick", sample_image, True))
        return [LOOK]

    tab.client.answers["attention"] = attention
    assert tab.attend(turn, "slow", sample_image, True) == gr.skip()
    assert "Mean of the heads" in newer[0]
    tab.client.answers["attention"] = lambda *_: tab.clear(PageSelection(None), turn) and [LOOK]
    assert tab.attend(turn, "enc", sample_image, True) == gr.skip(), "the image was removed meanwhile"


def test_the_address_has_the_encoder_and_one_that_is_gone_is_said(service: Any) -> None:
    encoders = [{"id": f"enc_{name}", "name": name, "info": {}} for name in ("best", "other")]
    client = service(encoders=encoders, encoder_figures=[], collections=[])
    tab = CaptionTab(client)

    def opened(current: str | None, **parameters: str) -> Any:
        request: Any = SimpleNamespace(query_params={"tab": "caption", **parameters}, cookies={})
        encoder, _, _, lost, message, view = tab.refresh(PageSelection(None), current, True, request)
        assert message == gr.skip(), "captions that are shown stay"
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


def test_captions_stay_while_the_service_cannot_be_reached(service: Any, sample_image: str, away: Exception) -> None:
    client = service(encoders=away, collections=[], stream_captions=telling(TextDelta(0, "a fox")))
    tab, selection = CaptionTab(client), PageSelection[Any](None)
    assert "data-reopen" in tab.refresh(selection, None, False)[-2]
    assert tab.refresh(selection, "enc_1", False)[-2] == gr.skip()
    assert "a fox" in written(tab, selection, "enc_1", sample_image, ["Greedy"], "", "", *CHOICES)
    assert tab.refresh(selection, None, False)[-2] == gr.skip(), "they were written without a choice"
    client.answers |= {"encoders": [{"id": "enc_1", "name": "one"}], "encoder_figures": []}
    assert tab.refresh(selection, None, False)[-2] == gr.skip()
    tab.clear(selection, PageSelection(0))
    assert "Captions appear here" in tab.refresh(selection, None, False)[-2]


def test_a_sample_without_a_caption_is_named_by_its_id(service: Any) -> None:
    items = [{"id": "i1", "caption": "a fox"}, {"id": "i2", "caption": ""}]
    client = service(collections=[{"id": "col_1", "name": "mine"}], items=items)
    names = re.findall('aria-label="(.*?)"', CaptionTab(client).sample_images())
    assert names == ["Use the image a fox", "Use the image i2"]


def test_the_part_that_is_seen_is_drawn() -> None:
    image = Image.new("RGB", (90, 30), "white")
    image.paste("blue", (30, 0, 60, 30))
    out = io.BytesIO()
    image.save(out, "PNG")
    drawn = draw_attention(out.getvalue(), {**LOOK, "box": [1 / 3, 0.0, 2 / 3, 1.0]})
    (url,) = re.findall(r"url\((data:image/webp;base64,.*?)\)", drawn)
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as seen:
        assert seen.size == (280, 280)
        assert max(seen.convert("L").crop((20, 20, 260, 260)).getextrema()) < 60, "the blue middle alone, as grey"
    assert "lcl-look__heads" not in drawn


@pytest.mark.parametrize(
    ("at", "words"), [((0, 0), "at the upper left"), ((1, 1), "in the middle"), ((2, 1), "at the lower")]
)
def test_a_place_is_reported_in_words(at: tuple[int, int], words: str) -> None:
    weights = [[0.1] * 3 for _ in range(3)]
    weights[at[0]][at[1]] = 0.9
    assert peak_position(weights) == words


def test_the_service_is_asked_as_the_visitor_whose_event_it_is(service: Any, sample_image: str) -> None:
    visitor = ContextVar("visitor", default="nobody")

    def who(*_: Any, **__: Any) -> Iterator[TextDelta]:
        yield TextDelta(0, visitor.get(), whole=True)

    visitor.set("ada")  # as Gradio keeps the request that an event came with
    tab = CaptionTab(service(stream_captions=who))
    assert "ada" in written(tab, PageSelection(None), "enc", sample_image, ["Greedy"], "", "", *CHOICES)


def test_a_key_has_few_streams_and_each_counts_until_it_ends(service: Any, sample_image: str) -> None:
    """A cancelled one has its threads and its image until the service answers."""
    on = threading.Event()

    def slowly(*_: Any, **__: Any) -> Iterator[TextDelta]:
        assert on.wait(SECONDS)
        yield TextDelta(0, "a red car", whole=True)

    team = SessionStore(60)
    keys = [team.open(key, "x", "viewer") for key in ("ada", "bob")]
    client = service(stream_captions=slowly)
    tab, selection, started = CaptionTab(client, team), PageSelection[Any](None), []

    def caption(session: str) -> tuple[str, Any]:
        LocalContext.request.set(SimpleNamespace(request=SimpleNamespace(scope={SESSION_SCOPE_KEY: session})))
        return tab.caption(selection, "enc", sample_image, ["Greedy"], "", "", *CHOICES)

    try:
        for _ in range(MAX_STREAMS):
            assert caption(keys[0])[1].active
            started.append(selection.current)
        drawn, clock = caption(keys[0])
        assert "Wait for some" in drawn
        assert not clock.active
        assert selection.current is None
        assert caption(keys[1])[1].active, "another key has streams of its own"
        started.append(selection.current)
    finally:
        on.set()
        for stream in started:
            stream.wait(SECONDS)
        LocalContext.request.set(None)
    assert len(client.arguments_of("stream_captions")) == MAX_STREAMS + 1
    assert "a red car" in written(tab, selection, "enc", sample_image, ["Greedy"], "", "", *CHOICES)


def test_an_image_that_the_service_would_refuse_is_not_sent(service: Any, tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    client = service(stream_captions=telling(), attention=LOOK)
    tab, selection = CaptionTab(client), PageSelection[Any](None)
    drawn, clock = tab.caption(selection, "enc", file.name, ["Greedy"], "", "", *CHOICES)
    assert "larger than 16 MiB" in drawn
    assert not clock.active
    assert "larger than 16 MiB" in tab.attend(PageSelection(0), "enc", file.name, True)
    assert client.arguments_of("stream_captions") == client.arguments_of("attention") == []
