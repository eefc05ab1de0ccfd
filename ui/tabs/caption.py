"""Caption: one picture, several ways to decode, side by side."""

from __future__ import annotations

import io
import time
from typing import Any

import gradio as gr
from PIL import Image

from api.client import ApiError, Client
from ui.common import BUSY, QUIET, UNREADABLE, choose, encoder_choices, newest, picture_input, read_upload, refused
from ui.html import PICK, empty_state, esc, heading, item_url, problem, toast

GREEDY, BEAM, NUCLEUS = "Greedy", "Beam search", "Nucleus sampling"
WAYS = [GREEDY, BEAM, NUCLEUS]
HINTS = {
    GREEDY: "the likeliest token each time",
    BEAM: "the likeliest sentence among several kept",
    NUCLEUS: "drawn from the likeliest tokens",
}
SAMPLES = 8  # pictures offered
NO_ENCODER = empty_state("No encoder yet", "Submit a pre-training run in the Runs tab; its encoder writes here.")
WAITING = empty_state("Captions appear here", "Choose a picture. Each way of decoding writes its own caption.")


class CaptionTab:
    title = "Caption"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.sampled = gr.State(False)
        with gr.Row(equal_height=False, elem_classes="lcl-columns"):
            with gr.Column(scale=4, min_width=300, elem_classes="lcl-panel"):
                self.encoder = gr.Dropdown(label="Encoder")
                self.image = picture_input("Picture", height=280)
                self.samples = gr.HTML(apply_default_css=False, js_on_load=PICK, elem_id="caption-samples")
                self.ways = gr.CheckboxGroup(WAYS, value=WAYS, label="Ways to decode")
                with gr.Accordion("Decoding choices", open=False):
                    self._build_choices()
                self.go = gr.Button("Write captions", variant="primary")
            with gr.Column(scale=6, min_width=300):
                self.refusal = gr.HTML(apply_default_css=False)
                self.results = gr.HTML(WAITING, apply_default_css=False, elem_id="captions")

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
        choices = [self.prompt, self.length, self.beams, self.top_p, self.temperature, self.seed]
        asked = [self.encoder, self.image, self.ways, *choices]
        for event in (self.go.click, self.image.upload, self.prompt.submit):
            event(self.caption, asked, self.results, **BUSY)
        self.samples.select(self.take_sample, outputs=[self.image, self.refusal], **BUSY).then(
            self.caption, asked, self.results, **BUSY
        )

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
        encoder: str | None,
        image: str | None,
        ways: list[str],
        prompt: str,
        length: int,
        beams: int,
        top_p: float,
        temperature: float,
        seed: float | None,
    ) -> str:
        """One card for every chosen way."""
        if not image or not ways:
            return WAITING
        try:
            encoder = encoder or newest(encoder_choices(self.client))
        except ApiError as error:
            return problem(error.message, "The service cannot be reached")
        if encoder is None:
            return NO_ENCODER
        decodings: dict[str, dict[str, Any]] = {
            GREEDY: {"num_beams": 1},
            BEAM: {"num_beams": int(beams)},
            NUCLEUS: {"top_p": top_p, "temperature": temperature, "seed": int(seed or 0)},
        }
        shared = {"max_new_tokens": int(length), **({"prompt": prompt} if prompt.strip() else {})}
        data = read_upload(image)
        try:
            cards = "".join(self._card(encoder, data, way, {**shared, **decodings[way]}) for way in WAYS if way in ways)
        except ApiError as error:
            return refused(error, "No caption can be written")
        return heading("Captions", "The same picture, decoded in different ways.") + (
            f'<div class="lcl-captions" role="status">{cards}</div>'
        )

    def _card(self, encoder: str, data: bytes, way: str, decoding: dict[str, Any]) -> str:
        """One way's words, or why it has none. Raises: ApiError for what is no picture, which no way can mend."""
        start = time.perf_counter()
        try:
            words = self.client.caption(encoder, [data], **decoding)[0].strip()
        except ApiError as error:
            if error.code == UNREADABLE:
                raise
            return problem(error.message, way)
        took = f"{1000 * (time.perf_counter() - start):.0f} ms"
        said = f"<blockquote>{esc(words)}</blockquote>" if words else "<blockquote><em>no words</em></blockquote>"
        return (
            f'<article class="lcl-caption"><h3>{esc(way)}</h3><p>{esc(HINTS[way])}</p>{said}'
            f"<footer>{took}</footer></article>"
        )
