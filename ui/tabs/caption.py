"""Caption tab: an encoder writes what it sees in an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from ui.addresses import mark_view, read_address
from ui.common import (
    BUSY_EVENT,
    LAST_COUNTS,
    SILENT_EVENT,
    PageSelection,
    api_error_box,
    first_choice,
    html_pane,
    image_input,
    newest,
    read_upload,
    sample_file,
    unreachable_box,
    update_dropdown,
)
from ui.html import PICK_SCRIPT, empty_state, error_box, esc, item_url, toast
from ui.ranking import RankedEncoder, collection_choices, encoder_choices, last_used, rank_encoders, used_script

SAMPLE_IMAGES = 8  # offered
NO_ENCODER = empty_state("No encoder yet", "Submit a pre-training run in the Runs tab; its encoder writes here.")
NO_IMAGE = empty_state("Choose an image first", "Drop one, paste it, or take one of the samples.")
WAITING = empty_state("The caption appears here", "Choose an image, or take one of the samples.")


class CaptionTab:
    title = "Caption"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.sampled = gr.State(False)
        self.written = gr.State(False)  # a caption is shown
        self.turn = gr.State(PageSelection(0))  # number of the newest caption
        self.view = html_pane(elem_id="caption-view")
        with gr.Row(equal_height=False, elem_classes="lcl-columns"):
            with gr.Column(scale=4, min_width=300, elem_classes="lcl-panel"):
                self.encoder = gr.Dropdown(label="Encoder")
                self.image = image_input("Image", height=280)
                self.samples = html_pane(js_on_load=PICK_SCRIPT, elem_id="caption-samples")
                with gr.Accordion("More", open=False):
                    self.context = gr.Textbox(
                        "",
                        label="Text before the image",
                        placeholder="what a document would say before it",
                        lines=2,
                        max_lines=6,
                        elem_id="caption-context",
                    )
                    self.prompt = gr.Textbox(
                        "", label="Caption prefix", placeholder="words that the caption starts with", max_lines=1
                    )
                    self.length = gr.Slider(4, 64, 24, step=1, label="Max tokens")
                    self.beams = gr.Slider(1, 8, 4, step=1, label="Beam width", info="1: the likeliest token each time")
                self.go = gr.Button("Write a caption", variant="primary")
            with gr.Column(scale=6, min_width=300):
                self.refusal = html_pane()
                self.result = html_pane(WAITING, elem_id="captions")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        state = [self.encoder, self.sampled]
        opened = [*state, self.samples, self.refusal, self.result, self.view]
        for event in (tab.select, navigation.select):
            event(self.refresh, [self.written, *state], opened, **SILENT_EVENT | LAST_COUNTS)
        self.encoder.input(None, self.encoder, js=used_script("encoder"))
        self.encoder.change(self.mark, self.encoder, self.view, **SILENT_EVENT)
        inputs = [self.turn, self.encoder, self.image, self.context, self.prompt, self.length, self.beams]
        outputs = [self.result, self.written]
        write = newest(self.caption, begins=False)
        for event in (self.go.click, self.image.upload, self.prompt.submit):
            event(write, inputs, outputs, **BUSY_EVENT | LAST_COUNTS)
        self.image.clear(self.clear, self.turn, outputs, **SILENT_EVENT)
        picked = self.samples.select(self.use_sample, outputs=[self.image, self.refusal], **BUSY_EVENT)
        picked.then(write, inputs, outputs, **BUSY_EVENT | LAST_COUNTS)

    def refresh(
        self, written: bool, current: str | None, sampled: bool, request: gr.Request | None = None
    ) -> tuple[Any, ...]:
        """New encoders, with the one of the address; sample images once there is a collection.

        What was written stays. Without an encoder and without a caption no opening has succeeded yet.
        """
        try:
            ranked = rank_encoders(self.client)
            choices = encoder_choices(self.client, ranked)
            samples = gr.skip() if sampled else self.sample_images(ranked)
        except ApiError as error:
            problem = gr.skip() if current or written else unreachable_box(error, reopens=True)
            return gr.skip(), sampled, gr.skip(), gr.skip(), problem, gr.skip()
        linked = read_address(request, "caption").get("on")
        message = NO_ENCODER if not choices else gr.skip() if current or written else WAITING
        is_lost = choices and linked and linked not in (value for _, value in choices)
        lost = error_box(f"There is no encoder {linked!r}.", "Not found") if is_lost else ""
        chosen = update_dropdown(choices, current, linked or current or last_used(request, "encoder"))
        # a dropdown that is not drawn yet does not report its change
        view = self.mark(chosen["value"]) if "value" in chosen else gr.skip()
        return chosen, sampled or bool(samples), samples, lost, message, view

    def mark(self, encoder: str | None) -> str:
        """The address of the tab with this encoder."""
        return mark_view("", on=encoder)

    def sample_images(self, encoders: Sequence[RankedEncoder] | None = None) -> str:
        """Some images of the first collection. ``encoders``: as of ``collection_choices``. Raises: ApiError."""
        collection = first_choice(collection_choices(self.client, encoders))
        if collection is None:
            return ""
        items = "".join(
            f'<li><button type="button" data-pick="{esc(collection)}:{esc(item["id"])}" '
            f'aria-label="Use the image {esc(item["caption"] or item["id"])}">'
            f'<img src="{esc(item_url(collection, item["id"]))}" alt="" loading="lazy"></button></li>'
            for item in self.client.items(collection, limit=SAMPLE_IMAGES)
        )
        return f'<p class="lcl-note">or one of these</p><ul class="lcl-samples">{items}</ul>'

    def use_sample(self, event: gr.EventData) -> tuple[Any, Any]:
        """The sample as image input, and no message; or no change and an error."""
        collection, _, item = str(event.pick).partition(":")
        try:
            return sample_file(self.client.item_image(collection, item)), ""
        except ApiError as error:
            return gr.skip(), toast(error.message, "The image cannot be fetched")

    def caption(
        self, encoder: str | None, image: str | None, context: str, prompt: str, length: int, beams: int
    ) -> tuple[str, bool]:
        """The caption, or why there is none; and whether there is one."""
        if not image:
            return NO_IMAGE, False
        texts = {name: text for name, text in (("prompt", prompt), ("context", context)) if text.strip()}
        try:
            encoder = encoder or first_choice(encoder_choices(self.client))
            if encoder is None:
                return NO_ENCODER, False
            options = {"max_new_tokens": int(length), "num_beams": int(beams), **texts}
            (text,) = self.client.caption(encoder, [read_upload(image)], **options)
        except ApiError as error:
            return api_error_box(error, "No caption can be written"), False
        words = esc(text) if text else "<em>no words</em>"
        return f'<article class="lcl-caption" role="status"><blockquote>{words}</blockquote></article>', True

    def clear(self, turn: PageSelection[int]) -> tuple[str, bool]:
        """The image was removed."""
        turn.current += 1
        return WAITING, False
