"""Caption: one picture, several ways to decode, side by side as they are written; and where the encoder looks."""

from __future__ import annotations

import io
from typing import Any

import gradio as gr
from PIL import Image

from api.client import ApiError, Client
from ui.attention import draw_attention
from ui.common import (
    BUSY,
    QUIET,
    UNREADABLE,
    Selection,
    choose,
    encoder_choices,
    newest,
    picture_input,
    read_upload,
    refused,
)
from ui.html import PICK, empty_state, esc, item_url, problem, toast
from ui.sheet import Sheet

GREEDY, BEAM, NUCLEUS = "Greedy", "Beam search", "Nucleus sampling"
WAYS = [GREEDY, BEAM, NUCLEUS]
HINTS = {
    GREEDY: "the likeliest token each time",
    BEAM: "the likeliest sentence among several kept",
    NUCLEUS: "drawn from the likeliest tokens",
}
SAMPLES = 8  # pictures offered
GLANCE_SECONDS = 0.15  # between two looks at what has been written
NO_ENCODER = empty_state("No encoder yet", "Submit a pre-training run in the Runs tab; its encoder writes here.")
WAITING = empty_state("Captions appear here", "Choose a picture. Each way of decoding writes its own caption.")


class CaptionTab:
    title = "Caption"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.sampled = gr.State(False)
        self.selection = gr.State(Selection[Sheet | None](None))
        with gr.Row(equal_height=False, elem_classes="lcl-columns"):
            with gr.Column(scale=4, min_width=300, elem_classes="lcl-panel"):
                self.encoder = gr.Dropdown(label="Encoder")
                self.image = picture_input("Picture", height=280)
                self.samples = gr.HTML(apply_default_css=False, js_on_load=PICK, elem_id="caption-samples")
                self.context = gr.Textbox(
                    "",
                    label="Text before the picture",
                    placeholder="what a document would say before it",
                    lines=2,
                    max_lines=6,
                    elem_id="caption-context",
                )
                self.ways = gr.CheckboxGroup(WAYS, value=WAYS, label="Ways to decode")
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
        tab.select(self.refresh, known, [*known, self.samples, self.results], **QUIET)
        self.clock = gr.Timer(GLANCE_SECONDS, active=False)
        choices = [self.prompt, self.length, self.beams, self.top_p, self.temperature, self.seed]
        asked = [self.selection, self.encoder, self.image, self.ways, self.context, *choices]
        written, seen = [self.results, self.clock], [self.encoder, self.image, self.look]
        for event in (self.go.click, self.image.upload, self.prompt.submit):
            event(self.caption, asked, written, **QUIET)
        for event in (self.go.click, self.image.upload, self.look.input):
            event(self.attend, seen, self.attention, **BUSY)
        self.image.clear(self.clear, self.selection, [*written, self.attention], **QUIET)
        self.clock.tick(self.glance, self.selection, written, **QUIET)
        taken = self.samples.select(self.take_sample, outputs=[self.image, self.refusal], **BUSY)
        taken.then(self.caption, asked, written, **QUIET)
        taken.then(self.attend, seen, self.attention, **BUSY)

    def refresh(self, current: str | None, sampled: bool) -> tuple[Any, ...]:
        """Encoders may have come; sample pictures are looked up once there is a collection."""
        try:
            choices = encoder_choices(self.client)
            samples = gr.skip() if sampled else self.sample_pictures()
        except ApiError as error:
            return gr.skip(), sampled, gr.skip(), problem(error.message, "The service cannot be reached")
        message = NO_ENCODER if not choices else gr.skip() if current else WAITING
        return choose(choices, current), sampled or bool(samples), samples, message

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
            for item in self.client.collection_map(place, limit=SAMPLES)["points"]
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
        selection: Selection[Sheet | None],
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
            encoder = encoder or newest(encoder_choices(self.client))
        except ApiError as error:
            return problem(error.message, "The service cannot be reached"), gr.Timer(active=False)
        if encoder is None:
            return NO_ENCODER, gr.Timer(active=False)
        decodings: dict[str, dict[str, Any]] = {
            GREEDY: {"num_beams": 1},
            BEAM: {"num_beams": int(beams)},
            NUCLEUS: {"top_p": top_p, "temperature": temperature, "seed": int(seed or 0)},
        }
        texts = {name: text for name, text in (("prompt", prompt), ("context", context)) if text.strip()}
        shared = {"max_new_tokens": int(length), **texts}
        asked = {way: {**shared, **decodings[way]} for way in WAYS if way in ways}
        sheet = selection.watched = Sheet(self.client, encoder, read_upload(image), asked, HINTS)
        return sheet.draw(), gr.Timer(active=True)

    def glance(self, selection: Selection[Sheet | None]) -> tuple[Any, Any]:
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
            encoder = encoder or newest(encoder_choices(self.client))
            return draw_attention(data, self.client.attention(encoder, [data])[0]) if encoder else ""
        except ApiError as error:
            # what is no picture is said once, by the captions
            return "" if error.code == UNREADABLE else refused(error, "Where it looks cannot be shown")

    def clear(self, selection: Selection[Sheet | None]) -> tuple[str, gr.Timer, str]:
        """The picture was taken away."""
        self._leave(selection)
        return WAITING, gr.Timer(active=False), ""

    def _leave(self, selection: Selection[Sheet | None]) -> None:
        if selection.watched is not None:
            selection.watched.leave()
        selection.watched = None
