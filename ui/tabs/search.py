"""Search: words or a picture in, pictures or texts out, each with its score; a hit leads to its neighbours."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import gradio as gr
from PIL import Image

from api.client import ApiError, Client
from ui.common import BUSY, QUIET, choose, collection_choices, read_upload
from ui.html import PICK, empty_state, esc, item_url, problem

TEXT_TO_IMAGES, IMAGE_TO_IMAGES, IMAGE_TO_TEXTS = "Text → images", "Image → images", "Image → texts"
MODES = [TEXT_TO_IMAGES, IMAGE_TO_IMAGES, IMAGE_TO_TEXTS]
EXAMPLES = ["dog", "red apple", "airplane", "smiling face", "birthday cake", "musical instrument", "house", "fish"]
NO_COLLECTION = empty_state(
    "No collection yet",
    "Submit an index run in the Runs tab: it embeds a dataset with an encoder, and its pictures can be searched here.",
)
INVITATION = empty_state("What are you looking for?", "Type a few words, pick an example, or search with a picture.")
NO_PICTURE = empty_state("Which picture?", "Drop one above, paste it, or choose it from your files.")


class SearchTab:
    title = "Search"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        with gr.Column(elem_classes="lcl-panel"):
            with gr.Row(elem_classes="lcl-toolbar"):
                self.mode = gr.Radio(
                    MODES, value=MODES[0], label="Search with", show_label=False, elem_classes="lcl-segment", scale=3
                )
                self.collection = gr.Dropdown(label="Collection", scale=2, min_width=200)
                self.k = gr.Dropdown([12, 24, 48, 96], value=24, label="Results", scale=1, min_width=90)
            with gr.Row(elem_classes="lcl-query"):
                self.text = gr.Textbox(
                    "",
                    label="Words", show_label=False, placeholder="Describe a picture …", max_lines=1, scale=6
                )
                self.image = gr.Image(
                    label="Picture to search with",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=190,
                    elem_classes="lcl-picture",
                    visible=False,
                    scale=6,
                )
                self.go = gr.Button("Search", variant="primary", scale=1, min_width=120)
            with gr.Row(elem_classes="lcl-chips") as self.chips:
                self.examples = [gr.Button(words, size="sm", min_width=0) for words in EXAMPLES]
        self.results = gr.HTML(INVITATION, apply_default_css=False, js_on_load=PICK, elem_id="search-results")

    def wire(self, page: gr.Blocks, tab: gr.Tab, others: Sequence[gr.Tab]) -> None:
        for event in (page.load, tab.select):
            event(self.refresh, self.collection, [self.collection, self.results], **QUIET)
        self.mode.input(self.switch, self.mode, [self.text, self.image, self.chips, self.results], **QUIET)
        query = [self.mode, self.collection, self.text, self.image, self.k]
        for event in (self.go.click, self.text.submit, self.image.upload):
            event(self.search, query, self.results, **BUSY)
        for event in (self.k.input, self.collection.input):
            event(self.search_again, query, self.results, **BUSY)
        for button, words in zip(self.examples, EXAMPLES, strict=True):
            button.click(lambda words=words: words, outputs=self.text, **QUIET).then(
                self.search, query, self.results, **BUSY
            )
        shown = [self.mode, self.text, self.image, self.chips, self.results]
        self.results.select(self.follow, [self.collection, self.k], shown, **BUSY)

    def refresh(self, current: str | None) -> tuple[Any, Any]:
        """Collections may have come or gone; results that are on show stay."""
        try:
            choices = collection_choices(self.client)
        except ApiError as error:
            return gr.skip(), gr.skip() if current else problem(error.message, "The service cannot be reached")
        if not choices:
            return choose([], None), NO_COLLECTION
        return choose(choices, current), gr.skip() if current else INVITATION

    def switch(self, mode: str) -> tuple[Any, Any, Any, Any]:
        words = mode == TEXT_TO_IMAGES
        shown = INVITATION if words else NO_PICTURE
        return gr.Textbox(visible=words), gr.Image(visible=not words), gr.Row(visible=words), shown

    def search(self, mode: str, collection: str | None, text: str, image: str | None, k: int) -> str:
        """The results as HTML, or in words why there are none."""
        if not collection:
            return NO_COLLECTION
        words = text.strip()
        if mode == TEXT_TO_IMAGES:
            return self.ask(collection, f"“{words}”", "images", k, text=words) if words else INVITATION
        if not image:
            return NO_PICTURE
        target = "texts" if mode == IMAGE_TO_TEXTS else "images"
        return self.ask(collection, "your picture", target, k, image=read_upload(image))

    def search_again(self, mode: str, collection: str | None, text: str, image: str | None, k: int) -> Any:
        """After a change of collection or count: only when there is something to look for."""
        asked = text.strip() if mode == TEXT_TO_IMAGES else image
        return self.search(mode, collection, text, image, k) if asked else gr.skip()

    def follow(self, collection: str, k: int, event: gr.EventData) -> tuple[Any, ...]:
        """A picture was chosen: show its neighbours. A text was chosen: show the pictures it finds."""
        kind, _, value = str(event.pick).partition(":")
        if kind == "text":
            shown = self.ask(collection, f"“{value}”", "images", k, text=value)
            return TEXT_TO_IMAGES, gr.Textbox(value, visible=True), gr.Image(visible=False), gr.Row(visible=True), shown
        try:
            data = self.client.item_image(collection, value)
        except ApiError as error:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip(), problem(error.message)
        picture = gr.Image(Image.open(io.BytesIO(data)), visible=True)
        shown = self.ask(collection, "this picture", "images", k, image=data)
        return IMAGE_TO_IMAGES, gr.Textbox(visible=False), picture, gr.Row(visible=False), shown

    def ask(self, collection: str, about: str, target: str, k: int, **query: Any) -> str:
        """One call to the service, with the time it took there and in all."""
        start = time.perf_counter()
        try:
            answer = self.client.search(collection, target=target, k=int(k), **query)
        except ApiError as error:
            return problem(error.message, "The search was refused")
        total_ms = 1000 * (time.perf_counter() - start)
        draw = draw_texts if target == "texts" else draw_images
        return _frame(answer["hits"], about, target, answer["took_ms"], total_ms, draw(collection, answer["hits"]))


def draw_images(collection: str, hits: Sequence[dict[str, Any]]) -> str:
    """A grid of pictures, best first."""
    return f'<ol class="lcl-grid">{"".join(_picture(collection, hit) for hit in hits)}</ol>'


def draw_texts(collection: str, hits: Sequence[dict[str, Any]]) -> str:
    """A ranked list of texts."""
    rows = "".join(
        f'<li><button type="button" data-pick="text:{esc(words)}" aria-label="{esc(words)}, score {hit["score"]:.2f}. '
        f'Find its pictures"><span>{esc(words)}</span>{_score(hit["score"])}</button></li>'
        for hit in hits
        for words in [hit.get("text") or hit.get("caption") or ""]
    )
    return f'<ol class="lcl-texts">{rows}</ol>'


def _picture(collection: str, hit: dict[str, Any]) -> str:
    words = hit.get("caption") or hit["id"]
    source = esc(item_url(collection, hit["id"]))
    return (
        f'<li><button type="button" class="lcl-card" data-pick="image:{esc(hit["id"])}" '
        f'title="Show its neighbours" aria-label="{esc(words)}, score {hit["score"]:.2f}. Show its neighbours">'
        f'<img src="{source}" alt="" loading="lazy" decoding="async">'
        f'<span class="lcl-card__words">{esc(words)}</span>{_score(hit["score"])}</button></li>'
    )


def _score(score: float) -> str:
    """Cosine similarity as a bar (negative: empty) and a figure."""
    width = round(100 * min(1.0, max(0.0, score)))
    return f'<span class="lcl-score"><i><b style="width:{width}%"></b></i><span>{score:.3f}</span></span>'


def _frame(hits: Sequence[Any], about: str, target: str, took_ms: float, total_ms: float, inside: str) -> str:
    if not hits:
        return empty_state("Nothing found", "The collection holds nothing that fits. Try other words.")
    what = "texts" if target == "texts" else "pictures"
    return (
        f'<section class="lcl-results" aria-label="Search results"><p class="lcl-results__head" role="status">'
        f"<b>{len(hits)} {what}</b> closest to {esc(about)}<span>{took_ms:.0f} ms in the service · "
        f"{total_ms:.0f} ms in all</span></p>{inside}</section>"
    )
