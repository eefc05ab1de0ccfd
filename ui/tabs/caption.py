"""Caption tab: one image, several decodings side by side as they are generated, and the encoder's attention map."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image, ImageOps

from api.client import ApiError, Client
from ui.common import (
    BUSY_EVENT,
    IMAGE_UNREADABLE,
    SILENT_EVENT,
    PageSelection,
    api_error_box,
    encoder_choices,
    first_choice,
    image_input,
    read_upload,
    update_dropdown,
)
from ui.html import PICK_SCRIPT, empty_state, error_box, esc, heading, item_url, toast

IMAGE_SIDE = 280  # pixels of the picture
PIXELS_PER_PATCH = 8  # pixels of a patch in the glow
HEAT_COLOUR, MAX_HEAT_ALPHA = (234, 88, 12), 0.8  # orange, which neither black nor white pictures hide
AttentionWeights = Sequence[Sequence[float]]


def draw_attention(image: bytes, found: Mapping[str, Any]) -> str:
    """The part of the picture that the encoder sees under the mean of its heads, and small under each head."""
    heads: Sequence[AttentionWeights] = found.get("heads") or ()
    small = "".join(f"<li>{_attention_figure(head, f'Head {number}')}</li>" for number, head in enumerate(heads, 1))
    each = f'<ul class="lcl-look__heads" aria-label="Each head">{small}</ul>' if len(heads) > 1 else ""
    return heading("Where the encoder looks", _concentration(found["mean"])) + (
        f'<div class="lcl-look" style="--picture: url({_visible_region(image, found["box"])})">'
        f"{_attention_figure(found['mean'], 'Mean of the heads')}{each}</div>"
    )


def _attention_figure(weights: AttentionWeights, name: str) -> str:
    words = f"{name}: most weight {peak_position(weights)}"
    return (
        f'<figure title="{esc(words)}"><div role="img" aria-label="{esc(words)}">'
        f'<img src="{_heat_layer(weights)}" alt=""></div><figcaption>{esc(name)}</figcaption></figure>'
    )


def peak_position(weights: AttentionWeights) -> str:
    """Where the largest weight is, in words: ``at the upper left``, ``in the middle``."""
    grid = np.asarray(weights)
    row, column = (int(at) for at in np.unravel_index(int(grid.argmax()), grid.shape))
    down = ("upper", "", "lower")[3 * row // grid.shape[0]]
    across = ("left", "", "right")[3 * column // grid.shape[1]]
    return f"at the {' '.join(filter(None, (down, across)))}" if down or across else "in the middle"


def _concentration(weights: AttentionWeights) -> str:
    """How much of the picture the encoder attends to."""
    largest_first = -np.sort(-np.asarray(weights).ravel())
    half = int(np.searchsorted(largest_first.cumsum(), largest_first.sum() / 2)) + 1
    return f"Half of the weight lies on {half} of {largest_first.size} patches; the warmer a patch, the more it counts."


def _visible_region(image: bytes, box: Sequence[float]) -> str:
    """That part of the picture, without its colours, over white."""
    with Image.open(io.BytesIO(image)) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGBA")
    left, top, right, bottom = box
    width, height = picture.size
    part = (left * width, top * height, right * width, bottom * height)
    square = picture.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC, box=part)
    white = Image.new("RGBA", square.size, "white")
    return _data_url(Image.alpha_composite(white, square).convert("L").convert("RGB"), "webp")


def _heat_layer(weights: AttentionWeights) -> str:
    grid = np.asarray(weights, np.float32)
    size = (grid.shape[1] * PIXELS_PER_PATCH, grid.shape[0] * PIXELS_PER_PATCH)
    alpha = Image.fromarray((255 * MAX_HEAT_ALPHA * grid / grid.max()).astype(np.uint8))
    glow = Image.new("RGBA", size, HEAT_COLOUR)
    glow.putalpha(alpha.resize(size, Image.Resampling.BICUBIC))
    return _data_url(glow, "png")


def _data_url(image: Image.Image, kind: str) -> str:
    out = io.BytesIO()
    image.save(out, kind)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


Decodings = Mapping[str, dict[str, Any]]


@dataclass(slots=True)
class _StreamedCaption:
    """One way's caption; ``took`` is None while it is written."""

    hint: str
    words: str = ""
    took: float | None = None
    error: ApiError | None = None

    def draw(self, name: str) -> str:
        if self.error is not None:
            return error_box(self.error.message, name)
        caret = '<i class="lcl-caret" aria-hidden="true"></i>' if self.took is None else ""
        said = f"{esc(self.words)}{caret}" if self.words or caret else "<em>no words</em>"
        ended = "writing …" if self.took is None else f"{1000 * self.took:.0f} ms"
        return (
            f'<article class="lcl-caption"><h3>{esc(name)}</h3><p>{esc(self.hint)}</p>'
            f"<blockquote>{said}</blockquote><footer>{ended}</footer></article>"
        )


class CaptionStream:
    """Begins to write when it is made.

    Args:
        decodings: name of each way → what the service is asked for.
        hints: name of each way → a line about it.
    """

    def __init__(
        self, client: Client, encoder: str, image: bytes, decodings: Decodings, hints: Mapping[str, str]
    ) -> None:
        self._ways = {name: _StreamedCaption(hints[name]) for name in decodings}
        self._is_left = False
        self._threads = [
            # with the visitor's key, which the context of the event knows
            threading.Thread(
                target=copy_context().run, args=(self._write, way, client, encoder, image, decodings[name]), daemon=True
            )
            for name, way in self._ways.items()
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def leave(self) -> None:
        """Nobody looks any more: the service need not write on."""
        self._is_left = True

    def wait(self, seconds: float) -> None:
        """Until it is done, at most so long."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def draw(self) -> str:
        """What there is, one card a way; or the one reason why the picture has no caption."""
        busy = "false" if self.is_done else "true"
        ways = dict(self._ways)
        no_picture = next(
            (way.error for way in ways.values() if way.error and way.error.code == IMAGE_UNREADABLE), None
        )
        if no_picture is not None:  # which no way can mend
            return api_error_box(no_picture, "No caption can be written")
        cards = "".join(way.draw(name) for name, way in ways.items())
        return heading("Captions", "The same picture, decoded in different ways.") + (
            f'<div class="lcl-captions" role="status" aria-busy="{busy}">{cards}</div>'
        )

    def _write(
        self, way: _StreamedCaption, client: Client, encoder: str, image: bytes, decoding: dict[str, Any]
    ) -> None:
        start = time.perf_counter()
        try:
            with closing(client.stream_captions(encoder, [image], **decoding)) as pieces:
                for piece in pieces:
                    way.words = piece.text if piece.whole else way.words + piece.text
                    if self._is_left:  # hanging up ends the writing
                        break
        except ApiError as error:
            way.error = error
        finally:
            way.took = time.perf_counter() - start


GREEDY, BEAM, NUCLEUS = "Greedy", "Beam search", "Nucleus sampling"
DECODINGS = [GREEDY, BEAM, NUCLEUS]
DECODING_HINTS = {
    GREEDY: "the likeliest token each time",
    BEAM: "the likeliest sentence among several kept",
    NUCLEUS: "drawn from the likeliest tokens",
}
SAMPLE_IMAGES = 8  # pictures offered
POLL_SECONDS = 0.15  # between two looks at what has been written
NO_ENCODER = empty_state("No encoder yet", "Submit a pre-training run in the Runs tab; its encoder writes here.")
WAITING = empty_state("Captions appear here", "Choose a picture. Each way of decoding writes its own caption.")


class CaptionTab:
    title = "Caption"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.sampled = gr.State(False)
        self.selection = gr.State(PageSelection[CaptionStream | None](None))
        with gr.Row(equal_height=False, elem_classes="lcl-columns"):
            with gr.Column(scale=4, min_width=300, elem_classes="lcl-panel"):
                self.encoder = gr.Dropdown(label="Encoder")
                self.image = image_input("Picture", height=280)
                self.samples = gr.HTML(apply_default_css=False, js_on_load=PICK_SCRIPT, elem_id="caption-samples")
                self.context = gr.Textbox(
                    "",
                    label="Text before the picture",
                    placeholder="what a document would say before it",
                    lines=2,
                    max_lines=6,
                    elem_id="caption-context",
                )
                self.ways = gr.CheckboxGroup(DECODINGS, value=DECODINGS, label="Ways to decode")
                with gr.Accordion("Decoding choices", open=False):
                    self._build_choices()
                self.look = gr.Checkbox(False, label="Show where the encoder looks")
                self.go = gr.Button("Write captions", variant="primary")
            with gr.Column(scale=6, min_width=300):
                self.refusal = gr.HTML(apply_default_css=False)
                self.results = gr.HTML(WAITING, apply_default_css=False, elem_id="captions")
                self.attention = gr.HTML(apply_default_css=False, elem_id="attention")

    def _build_choices(self) -> None:
        self.prompt = gr.Textbox("", label="Begin with", placeholder="words that the caption starts with", max_lines=1)
        self.length = gr.Slider(4, 64, 24, step=1, label="Longest caption, tokens")
        self.beams = gr.Slider(2, 8, 4, step=1, label="Beams kept", info="beam search")
        self.top_p = gr.Slider(0.1, 1.0, 0.9, step=0.05, label="Probability drawn from", info="nucleus sampling")
        self.temperature = gr.Slider(0.1, 2.0, 1.0, step=0.1, label="Temperature", info="nucleus sampling")
        self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="nucleus sampling")

    def wire(self, page: gr.Blocks, tab: gr.Tab) -> None:
        known = [self.encoder, self.sampled]
        tab.select(self.refresh, known, [*known, self.samples, self.results], **SILENT_EVENT)
        self.clock = gr.Timer(POLL_SECONDS, active=False)
        choices = [self.prompt, self.length, self.beams, self.top_p, self.temperature, self.seed]
        asked = [self.selection, self.encoder, self.image, self.ways, self.context, *choices]
        written, seen = [self.results, self.clock], [self.encoder, self.image, self.look]
        for event in (self.go.click, self.image.upload, self.prompt.submit):
            event(self.caption, asked, written, **SILENT_EVENT)
        for event in (self.go.click, self.image.upload, self.look.input):
            event(self.attend, seen, self.attention, **BUSY_EVENT)
        self.image.clear(self.clear, self.selection, [*written, self.attention], **SILENT_EVENT)
        self.clock.tick(self.glance, self.selection, written, **SILENT_EVENT)
        taken = self.samples.select(self.take_sample, outputs=[self.image, self.refusal], **BUSY_EVENT)
        taken.then(self.caption, asked, written, **SILENT_EVENT)
        taken.then(self.attend, seen, self.attention, **BUSY_EVENT)

    def refresh(self, current: str | None, sampled: bool) -> tuple[Any, ...]:
        """Encoders may have come; sample pictures are looked up once there is a collection."""
        try:
            choices = encoder_choices(self.client)
            samples = gr.skip() if sampled else self.sample_pictures()
        except ApiError as error:
            return gr.skip(), sampled, gr.skip(), error_box(error.message, "The service cannot be reached")
        message = NO_ENCODER if not choices else gr.skip() if current else WAITING
        return update_dropdown(choices, current), sampled or bool(samples), samples, message

    def sample_pictures(self) -> str:
        """A few pictures out of the newest collection. Raises: ApiError."""
        collections = self.client.collections()
        if not collections:
            return ""
        place = collections[0]["id"]
        items = "".join(
            f'<li><button type="button" data-pick="{esc(place)}:{esc(item["id"])}" '
            f'aria-label="Use the picture {esc(item["caption"])}">'
            f'<img src="{esc(item_url(place, item["id"]))}" alt="" loading="lazy"></button></li>'
            for item in self.client.collection_map(place, limit=SAMPLE_IMAGES)["points"]
        )
        return f'<p class="lcl-note">or one of these</p><ul class="lcl-samples">{items}</ul>'

    def take_sample(self, event: gr.EventData) -> tuple[Any, Any]:
        """The picture, and nothing to say; or the picture as it is, and why."""
        place, _, item = str(event.pick).partition(":")
        try:
            return Image.open(io.BytesIO(self.client.item_image(place, item))), ""
        except ApiError as error:
            return gr.skip(), toast(error.message, "The picture cannot be fetched")

    def caption(
        self,
        selection: PageSelection[CaptionStream | None],
        encoder: str | None,
        image: str | None,
        ways: list[str],
        context: str,
        prompt: str,
        length: int,
        beams: int,
        top_p: float,
        temperature: float,
        seed: float | None,
    ) -> tuple[str, gr.Timer]:
        """Begin to write a card for every chosen way; whatever was being written before is left."""
        self._leave(selection)
        if not image or not ways:
            return WAITING, gr.Timer(active=False)
        try:
            encoder = encoder or first_choice(encoder_choices(self.client))
        except ApiError as error:
            return error_box(error.message, "The service cannot be reached"), gr.Timer(active=False)
        if encoder is None:
            return NO_ENCODER, gr.Timer(active=False)
        decodings: dict[str, dict[str, Any]] = {
            GREEDY: {"num_beams": 1},
            BEAM: {"num_beams": int(beams)},
            NUCLEUS: {"top_p": top_p, "temperature": temperature, "seed": int(seed or 0)},
        }
        texts = {name: text for name, text in (("prompt", prompt), ("context", context)) if text.strip()}
        shared = {"max_new_tokens": int(length), **texts}
        asked = {way: {**shared, **decodings[way]} for way in DECODINGS if way in ways}
        sheet = selection.watched = CaptionStream(self.client, encoder, read_upload(image), asked, DECODING_HINTS)
        return sheet.draw(), gr.Timer(active=True)

    def glance(self, selection: PageSelection[CaptionStream | None]) -> tuple[Any, Any]:
        """What has been written until now; the clock stops with the last word."""
        sheet = selection.watched
        if sheet is None:
            return gr.skip(), gr.Timer(active=False)
        is_done = sheet.is_done  # asked first: what is drawn then is all
        drawn = sheet.draw()
        if selection.watched is not sheet:  # another picture came meanwhile
            return gr.skip(), gr.skip()
        return drawn, gr.Timer(active=False) if is_done else gr.skip()

    def attend(self, encoder: str | None, image: str | None, wanted: bool) -> str:
        """The picture with what the encoder looks at, if that is wanted."""
        if not wanted or not image:
            return ""
        data = read_upload(image)
        try:
            encoder = encoder or first_choice(encoder_choices(self.client))
            return draw_attention(data, self.client.attention(encoder, [data])[0]) if encoder else ""
        except ApiError as error:
            # what is no picture is said once, by the captions
            return "" if error.code == IMAGE_UNREADABLE else api_error_box(error, "Where it looks cannot be shown")

    def clear(self, selection: PageSelection[CaptionStream | None]) -> tuple[str, gr.Timer, str]:
        """The picture was taken away."""
        self._leave(selection)
        return WAITING, gr.Timer(active=False), ""

    def _leave(self, selection: PageSelection[CaptionStream | None]) -> None:
        if selection.watched is not None:
            selection.watched.leave()
        selection.watched = None
