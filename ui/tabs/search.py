"""Search: words or a picture in, pictures or texts out, each with its score; a hit leads to its neighbours."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import gradio as gr
from PIL import Image

from api.client import ApiError, Client
from ui.common import BUSY, QUIET, choose, collection_choices, newest, picture_input, read_upload, refused
from ui.html import PICK, empty_state, esc, item_url, problem

TEXT_TO_IMAGES, IMAGE_TO_IMAGES, IMAGE_TO_TEXTS = "Text → images", "Image → images", "Image → texts"
MODES = [TEXT_TO_IMAGES, IMAGE_TO_IMAGES, IMAGE_TO_TEXTS]
EXAMPLES = ["dog", "red apple", "airplane", "smiling face", "tree", "musical instrument", "house", "fish"]
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
        self.bare = gr.State(False)  # the pane says that there is no collection, or no service
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
                with gr.Column(visible=False, scale=6, min_width=200) as self.frame:
                    self.image = picture_input("Picture to search with", height=190)
                self.go = gr.Button("Search", variant="primary", scale=1, min_width=120)
            with gr.Row(elem_classes="lcl-chips") as self.chips:
                self.examples = [gr.Button(words, size="sm", min_width=0) for words in EXAMPLES]
        self.results = gr.HTML(INVITATION, apply_default_css=False, js_on_load=PICK, elem_id="search-results")

    def wire(self, page: gr.Blocks, tab: gr.Tab) -> None:
        known = [self.collection, self.bare]
        self.asking = [self.text, self.frame, self.chips]
        for event in (page.load, tab.select):
            event(self.refresh, known, [*known, self.results], **QUIET)
        self.mode.input(self.switch, self.mode, [*self.asking, self.results], **QUIET)
        query = [self.mode, self.collection, self.text, self.image, self.k]
        for event in (self.go.click, self.text.submit, self.image.upload):
            event(self.search, query, self.results, **BUSY)
        for event in (self.k.input, self.collection.input):
            event(self.search_again, query, self.results, **BUSY)
        for button, words in zip(self.examples, EXAMPLES, strict=True):
            button.click(lambda words=words: words, outputs=self.text, **QUIET).then(
                self.search, query, self.results, **BUSY
            )
        shown = [self.mode, *self.asking, self.image, self.results]
        self.results.select(self.follow, self.k, shown, **BUSY)

    def refresh(self, current: str | None, bare: bool) -> tuple[Any, bool, Any]:
        """Collections may have come or gone; results that are on show stay."""
        try:
            choices = collection_choices(self.client)
        except ApiError as error:
            words = problem(error.message, "The service cannot be reached")
            return gr.skip(), bare or not current, gr.skip() if current else words
        if not choices:
            return choose([], None), True, NO_COLLECTION
        return choose(choices, current), False, INVITATION if bare else gr.skip()

    def switch(self, mode: str) -> tuple[Any, ...]:
        """Ask with words or with a picture."""
        return *_asking(mode), INVITATION if mode == TEXT_TO_IMAGES else NO_PICTURE

    def search(self, mode: str, collection: str | None, text: str, image: str | None, k: int) -> str:
        """The results as HTML, or in words why there are none."""
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

    def follow(self, k: int, event: gr.EventData) -> tuple[Any, ...]:
        """A picture was chosen: show its neighbours. A text was chosen: show the pictures it finds."""
        kind, collection, value = str(event.pick).split(":", 2)
        if kind == "text":
            _, frame, chips = _asking(TEXT_TO_IMAGES)
            shown = self.ask(collection, f"“{value}”", "images", k, text=value)
            return TEXT_TO_IMAGES, gr.Textbox(value, visible=True), frame, chips, gr.skip(), shown
        try:
            data = self.client.item_image(collection, value)
        except ApiError as error:
            return *[gr.skip()] * 5, problem(error.message)
        shown = self.ask(collection, "this picture", "images", k, image=data)
        return IMAGE_TO_IMAGES, *_asking(IMAGE_TO_IMAGES), Image.open(io.BytesIO(data)), shown

    def ask(self, collection: str | None, about: str, target: str, k: int, **query: Any) -> str:
        """One call to the service, with the time it took there and in all."""
        try:
            collection = collection or newest(collection_choices(self.client))
            if collection is None:
                return NO_COLLECTION
            start = time.perf_counter()
            answer = self.client.search(collection, target=target, k=int(k), **query)
        except ApiError as error:
            return refused(error, "The search was refused")
        total_ms = 1000 * (time.perf_counter() - start)
        draw = draw_texts if target == "texts" else draw_images
        return _frame(answer["hits"], about, target, answer["took_ms"], total_ms, draw(collection, answer["hits"]))


def _asking(mode: str) -> tuple[Any, Any, Any]:
    """What is visible of the text box, the picture and the examples."""
    words = mode == TEXT_TO_IMAGES
    return gr.Textbox(visible=words), gr.Column(visible=not words), gr.Row(visible=words)


def draw_images(collection: str, hits: Sequence[dict[str, Any]]) -> str:
    """A grid of pictures, best first."""
    return f'<ol class="lcl-grid">{"".join(_picture(collection, hit) for hit in hits)}</ol>'


def draw_texts(collection: str, hits: Sequence[dict[str, Any]]) -> str:
    """A ranked list of texts."""
    rows = "".join(_text(collection, hit["text"], hit["score"]) for hit in hits)
    return f'<ol class="lcl-texts">{rows}</ol>'


def _text(collection: str, words: str, score: float) -> str:
    return (
        f'<li><button type="button" data-pick="text:{esc(collection)}:{esc(words)}" '
        f'aria-label="{esc(words)}, score {score:.2f}. Find its pictures"><span>{esc(words)}</span>{_score(score)}'
        "</button></li>"
    )


def _picture(collection: str, hit: dict[str, Any]) -> str:
    words = hit.get("caption") or hit["id"]
    source = esc(item_url(collection, hit["id"]))
    return (
        f'<li><button type="button" class="lcl-card" data-pick="image:{esc(collection)}:{esc(hit["id"])}" '
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
