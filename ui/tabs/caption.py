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
from ui.addresses import mark_view, read_address
from ui.common import (
    BUSY_EVENT,
    IMAGE_UNREADABLE,
    LAST_COUNTS,
    SILENT_EVENT,
    PageSelection,
    api_error_box,
    first_choice,
    html_pane,
    image_input,
    read_upload,
    sample_file,
    unreachable_box,
    update_dropdown,
)
from ui.html import PICK_SCRIPT, empty_state, error_box, esc, heading, item_url, toast
from ui.ranking import RankedEncoder, collection_choices, encoder_choices, last_used, rank_encoders, used_script
from ui.sessions import RunningTasks, SessionStore

IMAGE_SIDE = 280  # pixels
PIXELS_PER_PATCH = 8  # of the heat layer
MOST_PIXELS = 1024  # of a side of the image that is shown beneath
HEAT_COLOUR, MAX_HEAT_ALPHA = (234, 88, 12), 0.8  # orange, visible on dark and on bright images
AttentionWeights = Sequence[Sequence[float]]
Decodings = Mapping[str, dict[str, Any]]

GREEDY, BEAM, NUCLEUS = "Greedy", "Beam search", "Nucleus sampling"
DECODINGS = [GREEDY, BEAM, NUCLEUS]
DECODING_HINTS = {
    GREEDY: "the likeliest token each time",
    BEAM: "the likeliest sentence among several kept",
    NUCLEUS: "drawn from the likeliest tokens",
}
SAMPLE_IMAGES = 8  # offered
POLL_SECONDS = 0.15  # of the captions
MAX_STREAMS = 4  # of one key at once, cancelled ones that have not ended included
TOO_MANY_STREAMS = "Captions of several images are being written for you. Wait for some to be complete, then try again."
NO_ENCODER = empty_state("No encoder yet", "Submit a pre-training run in the Runs tab; its encoder writes here.")
NO_IMAGE = empty_state("Choose an image first", "Drop one, paste it, or take one of the samples.")
NO_DECODING = empty_state("Choose a way to decode", "At least one of the boxes must be checked.")
WAITING = empty_state("Captions appear here", "Choose an image. Each way of decoding writes its own caption.")


def draw_attention(image: bytes, attention: Mapping[str, Any]) -> str:
    """The region that the encoder sees with the mean attention over it, and small with that of each head.

    Args:
        attention: as ``Client.attention`` returns it for the image.
    """
    heads: Sequence[AttentionWeights] = attention.get("heads") or ()
    small = "".join(f"<li>{_attention_figure(head, f'Head {number}')}</li>" for number, head in enumerate(heads, 1))
    by_head = f'<ul class="lcl-look__heads" aria-label="Each head">{small}</ul>' if len(heads) > 1 else ""
    return heading("Where the encoder looks", _concentration(attention["mean"])) + (
        f'<div class="lcl-look" style="--image: url({_visible_region(image, attention["box"])})">'
        f"{_attention_figure(attention['mean'], 'Mean of the heads')}{by_head}</div>"
    )


def _attention_figure(weights: AttentionWeights, name: str) -> str:
    label = f"{name}: most weight {peak_position(weights)}"
    return (
        f'<figure title="{esc(label)}"><div role="img" aria-label="{esc(label)}">'
        f'<img src="{_heat_layer(weights)}" alt=""></div><figcaption>{esc(name)}</figcaption></figure>'
    )


def peak_position(weights: AttentionWeights) -> str:
    """Position of the largest weight as text: ``at the upper left``, ``in the middle``."""
    grid = np.asarray(weights)
    row, column = (int(at) for at in np.unravel_index(int(grid.argmax()), grid.shape))
    down = ("upper", "", "lower")[3 * row // grid.shape[0]]
    across = ("left", "", "right")[3 * column // grid.shape[1]]
    return f"at the {' '.join(filter(None, (down, across)))}" if down or across else "in the middle"


def _concentration(weights: AttentionWeights) -> str:
    """Number of patches with half of the weight, as text."""
    largest_first = -np.sort(-np.asarray(weights).ravel())
    half = int(np.searchsorted(largest_first.cumsum(), largest_first.sum() / 2)) + 1
    return f"Half of the weight lies on {half} of {largest_first.size} patches; the warmer a patch, the more it counts."


def _visible_region(image: bytes, box: Sequence[float]) -> str:
    """The region of the image in ``box`` (relative), grey, over white, as a data URL."""
    with Image.open(io.BytesIO(image)) as opened:
        opened.draft("RGB", (MOST_PIXELS, MOST_PIXELS))
        opened.thumbnail((MOST_PIXELS, MOST_PIXELS))  # before it is turned and converted, which makes copies
        rgba = ImageOps.exif_transpose(opened).convert("RGBA")
    left, top, right, bottom = box
    width, height = rgba.size
    part = (left * width, top * height, right * width, bottom * height)
    square = rgba.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC, box=part)
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


@dataclass(slots=True)
class _StreamedCaption:
    """The caption of one decoding; ``seconds`` is None while it is generated."""

    hint: str
    text: str = ""
    seconds: float | None = None
    error: ApiError | None = None

    def draw(self, name: str) -> str:
        if self.error is not None:
            return error_box(self.error.message, name)
        caret = '<i class="lcl-caret" aria-hidden="true"></i>' if self.seconds is None else ""
        text = f"{esc(self.text)}{caret}" if self.text or caret else "<em>no words</em>"
        footer = "writing …" if self.seconds is None else f"{1000 * self.seconds:.0f} ms"
        return (
            f'<article class="lcl-caption"><h3>{esc(name)}</h3><p>{esc(self.hint)}</p>'
            f"<blockquote>{text}</blockquote><footer>{footer}</footer></article>"
        )


class CaptionStream:
    """Captions of one image by several decodings, generated at once from construction on.

    Threads read the streams of the service, and a timer of the page draws what has arrived: Gradio's own streams need
    its queue, which the page does not use (``ui.common``).

    Args:
        decodings: by name, the options of ``Client.caption``.
        hints: by name, a line of explanation.
    """

    def __init__(
        self, client: Client, encoder: str, image: bytes, decodings: Decodings, hints: Mapping[str, str]
    ) -> None:
        self._captions = {name: _StreamedCaption(hints[name]) for name in decodings}
        self._is_cancelled = False
        self._threads = [
            # the context has the key of the user
            threading.Thread(
                target=copy_context().run,
                args=(self._write, caption, client, encoder, image, decodings[name]),
                daemon=True,
            )
            for name, caption in self._captions.items()
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def cancel(self) -> None:
        """Stop the generation."""
        self._is_cancelled = True

    def wait(self, seconds: float) -> None:
        """Wait until all captions are complete, at most ``seconds``."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def draw(self) -> str:
        """A card for each decoding; or, for an unreadable image, one error."""
        busy = "false" if self.is_done else "true"
        errors = [caption.error for caption in self._captions.values() if caption.error]
        unreadable = next((error for error in errors if error.code == IMAGE_UNREADABLE), None)
        if unreadable is not None:
            return api_error_box(unreadable, "No caption can be written")
        cards = "".join(caption.draw(name) for name, caption in self._captions.items())
        return heading("Captions", "The same image, decoded in different ways.") + (
            f'<div class="lcl-captions" role="status" aria-busy="{busy}">{cards}</div>'
        )

    def _write(
        self, caption: _StreamedCaption, client: Client, encoder: str, image: bytes, decoding: dict[str, Any]
    ) -> None:
        start = time.perf_counter()
        try:
            with closing(client.stream_captions(encoder, [image], **decoding)) as deltas:
                for delta in deltas:
                    caption.text = delta.text if delta.whole else caption.text + delta.text
                    if self._is_cancelled:
                        break
        except ApiError as error:
            caption.error = error
        finally:
            caption.seconds = time.perf_counter() - start


def _linked_encoder(request: gr.Request | None) -> str | None:
    return read_address(request, "caption").get("on")


class CaptionTab:
    title = "Caption"

    def __init__(self, client: Client, team: SessionStore | None = None) -> None:
        self.client = client
        self.running = RunningTasks[CaptionStream](team, MAX_STREAMS, TOO_MANY_STREAMS)

    def build(self) -> None:
        self.sampled = gr.State(False)
        self.selection = gr.State(PageSelection[CaptionStream | None](None))
        self.attended = gr.State(PageSelection(0))  # number of the newest attention map
        self.view = html_pane(elem_id="caption-view")
        with gr.Row(equal_height=False, elem_classes="lcl-columns"):
            with gr.Column(scale=4, min_width=300, elem_classes="lcl-panel"):
                self.encoder = gr.Dropdown(label="Encoder")
                self.image = image_input("Image", height=280)
                self.samples = html_pane(js_on_load=PICK_SCRIPT, elem_id="caption-samples")
                self.context = gr.Textbox(
                    "",
                    label="Text before the image",
                    placeholder="what a document would say before it",
                    lines=2,
                    max_lines=6,
                    elem_id="caption-context",
                )
                self.decodings = gr.CheckboxGroup(DECODINGS, value=DECODINGS, label="Decoding")
                with gr.Accordion("Decoding options", open=False):
                    self._build_choices()
                self.look = gr.Checkbox(False, label="Show where the encoder looks")
                self.go = gr.Button("Write captions", variant="primary")
            with gr.Column(scale=6, min_width=300):
                self.refusal = html_pane()
                self.results = html_pane(WAITING, elem_id="captions")
                self.attention = html_pane(elem_id="attention")

    def _build_choices(self) -> None:
        self.prompt = gr.Textbox(
            "", label="Caption prefix", placeholder="words that the caption starts with", max_lines=1
        )
        self.length = gr.Slider(4, 64, 24, step=1, label="Max tokens")
        self.beams = gr.Slider(2, 8, 4, step=1, label="Beam width", info="beam search")
        self.top_p = gr.Slider(0.1, 1.0, 0.9, step=0.05, label="Top-p", info="nucleus sampling")
        self.temperature = gr.Slider(0.1, 2.0, 1.0, step=0.1, label="Temperature", info="nucleus sampling")
        self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="nucleus sampling")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        state = [self.encoder, self.sampled]
        opened = [*state, self.samples, self.refusal, self.results, self.view]
        for event in (tab.select, navigation.select):
            event(self.refresh, [self.selection, *state], opened, **SILENT_EVENT | LAST_COUNTS)
        self.encoder.input(None, self.encoder, js=used_script("encoder"))
        self.encoder.change(self.mark, self.encoder, self.view, **SILENT_EVENT)
        self.clock = gr.Timer(POLL_SECONDS, active=False)
        choices = [self.prompt, self.length, self.beams, self.top_p, self.temperature, self.seed]
        inputs = [self.selection, self.encoder, self.image, self.decodings, self.context, *choices]
        outputs, attended = [self.results, self.clock], [self.attended, self.encoder, self.image, self.look]
        for event in (self.go.click, self.image.upload, self.prompt.submit):
            event(self.caption, inputs, outputs, **SILENT_EVENT)
        for event in (self.go.click, self.image.upload, self.look.input):
            event(self.attend, attended, self.attention, **BUSY_EVENT | LAST_COUNTS)
        self.image.clear(self.clear, [self.selection, self.attended], [*outputs, self.attention], **SILENT_EVENT)
        self.clock.tick(self.poll, self.selection, outputs, **SILENT_EVENT)
        picked = self.samples.select(self.use_sample, outputs=[self.image, self.refusal], **BUSY_EVENT)
        picked.then(self.caption, inputs, outputs, **SILENT_EVENT | LAST_COUNTS)
        picked.then(self.attend, attended, self.attention, **BUSY_EVENT | LAST_COUNTS)

    def refresh(
        self,
        selection: PageSelection[CaptionStream | None],
        current: str | None,
        sampled: bool,
        request: gr.Request | None = None,
    ) -> tuple[Any, ...]:
        """New encoders, with the one of the address; sample images once there is a collection.

        What was written stays. Without an encoder and without captions no opening has succeeded yet.
        """
        try:
            ranked = rank_encoders(self.client)
            choices = encoder_choices(self.client, ranked)
            samples = gr.skip() if sampled else self.sample_images(ranked)
        except ApiError as error:
            problem = gr.skip() if current or selection.current else unreachable_box(error, reopens=True)
            return gr.skip(), sampled, gr.skip(), gr.skip(), problem, gr.skip()
        linked = _linked_encoder(request)
        message = NO_ENCODER if not choices else gr.skip() if current or selection.current else WAITING
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
        self,
        selection: PageSelection[CaptionStream | None],
        encoder: str | None,
        image: str | None,
        chosen: list[str],
        context: str,
        prompt: str,
        length: int,
        beams: int,
        top_p: float,
        temperature: float,
        seed: float | None,
    ) -> tuple[str, gr.Timer]:
        """Start a caption for every chosen decoding; the previous captions are cancelled."""
        self._cancel(selection)
        if not image or not chosen:
            return NO_DECODING if image else NO_IMAGE, gr.Timer(active=False)
        try:
            encoder = encoder or first_choice(encoder_choices(self.client))
        except ApiError as error:
            return unreachable_box(error), gr.Timer(active=False)
        if encoder is None:
            return NO_ENCODER, gr.Timer(active=False)
        decodings: dict[str, dict[str, Any]] = {
            GREEDY: {"num_beams": 1},
            BEAM: {"num_beams": int(beams)},
            NUCLEUS: {"top_p": top_p, "temperature": temperature, "seed": int(seed or 0)},
        }
        texts = {name: text for name, text in (("prompt", prompt), ("context", context)) if text.strip()}
        shared = {"max_new_tokens": int(length), **texts}
        requests = {name: {**shared, **decodings[name]} for name in DECODINGS if name in chosen}
        try:
            data = read_upload(image)
            stream = selection.current = self.running.start(
                lambda: CaptionStream(self.client, encoder, data, requests, DECODING_HINTS)
            )
        except ApiError as error:
            return api_error_box(error, "No caption can be written"), gr.Timer(active=False)
        return stream.draw(), gr.Timer(active=True)

    def poll(self, selection: PageSelection[CaptionStream | None]) -> tuple[Any, Any]:
        """The captions so far; the timer stops when they are complete."""
        stream = selection.current
        if stream is None:
            return gr.skip(), gr.Timer(active=False)
        is_done = stream.is_done  # before drawing, which is then complete
        drawn = stream.draw()
        if selection.current is not stream:  # another image was chosen
            return gr.skip(), gr.skip()
        return drawn, gr.Timer(active=False) if is_done else gr.skip()

    def attend(self, turn: PageSelection[int], encoder: str | None, image: str | None, enabled: bool) -> Any:
        """The attention map, if enabled; no change if that of another image was asked for meanwhile."""
        turn.current = mine = turn.current + 1
        drawn = self._draw_attention(encoder, image, enabled)
        return drawn if turn.current == mine else gr.skip()

    def _draw_attention(self, encoder: str | None, image: str | None, enabled: bool) -> str:
        if not enabled or not image:
            return ""
        try:
            data = read_upload(image)
            encoder = encoder or first_choice(encoder_choices(self.client))
            return draw_attention(data, self.client.attention(encoder, [data])[0]) if encoder else ""
        except ApiError as error:
            # the captions already report an unreadable image
            return "" if error.code == IMAGE_UNREADABLE else api_error_box(error, "Where it looks cannot be shown")

    def clear(
        self, selection: PageSelection[CaptionStream | None], turn: PageSelection[int]
    ) -> tuple[str, gr.Timer, str]:
        """The image was removed."""
        self._cancel(selection)
        turn.current += 1
        return WAITING, gr.Timer(active=False), ""

    def _cancel(self, selection: PageSelection[CaptionStream | None]) -> None:
        if selection.current is not None:
            selection.current.cancel()
        selection.current = None
