"""Compare: two encoders, the same query, side by side; and their figures below."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from ui.common import BUSY, QUIET, choose, picture_input, read_upload, refused
from ui.html import PICK, heading, problem
from ui.tabs.compare_view import INVITATION, SAME, TOO_FEW, draw_figures, draw_sides, no_collection

WORDS, PICTURE = "Words", "Picture"
EXAMPLES = ["dog", "red apple", "airplane", "tree", "musical instrument"]
SHOWN = 12  # pictures a side
SAMPLE = "sample"  # the dataset that every service has
Json = dict[str, Any]
Sides = tuple[Json, Json]


class CompareTab:
    title = "Compare"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.bare = gr.State(False)  # the pane says that something is missing, or no service
        with gr.Column(elem_classes="lcl-panel"):
            title = heading("Compare two encoders", "The same query to both, in collections of the same dataset.")
            gr.HTML(title, apply_default_css=False)
            with gr.Row(elem_classes="lcl-toolbar"):
                self.left = gr.Dropdown(label="Encoder on the left", scale=2, min_width=180)
                self.right = gr.Dropdown(label="Encoder on the right", scale=2, min_width=180)
                self.dataset = gr.Dropdown(label="Dataset", scale=1, min_width=140)
            with gr.Row(elem_classes="lcl-query"):
                self.mode = gr.Radio(
                    [WORDS, PICTURE], value=WORDS, label="Ask with", show_label=False, elem_classes="lcl-segment",
                    scale=0, min_width=190,
                )  # fmt: skip
                self.text = gr.Textbox(
                    "", label="Words", show_label=False, placeholder="What should both look for?", max_lines=1, scale=6
                )
                with gr.Column(visible=False, scale=6, min_width=200) as self.frame:
                    self.image = picture_input("Picture to ask both with", height=170)
                self.go = gr.Button("Ask both", variant="primary", scale=1, min_width=120)
            with gr.Row(elem_classes="lcl-chips") as self.chips:
                self.examples = [gr.Button(words, size="sm", min_width=0) for words in EXAMPLES]
        self.results = gr.HTML(INVITATION, apply_default_css=False, js_on_load=PICK, elem_id="compare-results")
        self.figures = gr.HTML(apply_default_css=False, elem_id="compare-figures")

    def wire(self, page: gr.Blocks, tab: gr.Tab) -> None:
        sides = [self.left, self.right]
        pickers = [*sides, self.dataset]
        query = [*pickers, self.mode, self.text, self.image]
        known = [*pickers, self.bare]
        tab.select(self.refresh, known, [*known, self.results], **QUIET).then(
            self.draw_figures, sides, self.figures, **QUIET
        )
        for side in sides:
            side.input(self.refresh, known, [*known, self.results], **QUIET).then(
                self.search, query, self.results, **BUSY
            ).then(self.draw_figures, sides, self.figures, **QUIET)
        for event in (self.go.click, self.text.submit, self.image.upload, self.dataset.input):
            event(self.search, query, self.results, **BUSY)
        self.mode.input(self.switch, self.mode, [self.text, self.frame, self.chips], **QUIET)
        for button, words in zip(self.examples, EXAMPLES, strict=True):
            button.click(lambda words=words: words, outputs=self.text, **QUIET).then(
                self.search, query, self.results, **BUSY
            )
        self.results.select(self.follow, pickers, self.results, **BUSY)

    def refresh(self, left: str | None, right: str | None, dataset: str | None, bare: bool = False) -> tuple[Any, ...]:
        """Encoders and collections may have come or gone; results that are on show stay."""
        try:
            encoders, collections = self.client.encoders(), self.client.collections()
        except ApiError as error:
            words = problem(error.message, "The service cannot be reached")
            return gr.skip(), gr.skip(), gr.skip(), bare or not left, gr.skip() if left else words
        choices = _choices(encoders)
        sides = _sides(left, right, encoders)
        if sides is None:
            return choose(choices, left), choose(choices, right), choose([], None), True, TOO_FEW
        names = _datasets(*sides, collections) or [dataset or SAMPLE]
        picked = dataset if dataset in names else names[0]
        pickers = [choose(choices, side["id"]) for side in sides]
        shown: Any = INVITATION if bare else gr.skip()
        try:
            _asked_in(sides, picked, collections)
        except _Missing as missing:
            bare, shown = True, missing.drawn
        else:
            bare = False
        return *pickers, choose([(name, name) for name in names], picked), bare, shown

    def switch(self, mode: str) -> tuple[Any, Any, Any]:
        words = mode == WORDS
        return gr.Textbox(visible=words), gr.Column(visible=not words), gr.Row(visible=words)

    def search(
        self, left: str | None, right: str | None, dataset: str | None, mode: str, text: str, image: str | None
    ) -> str:
        """Both encoders' answers to the words or the picture, or in words why there are none."""
        if mode == WORDS:
            said = text.strip()
            return self.ask(left, right, dataset, f"“{said}”", **({"text": said} if said else {}))
        return self.ask(left, right, dataset, "your picture", **({"image": read_upload(image)} if image else {}))

    def follow(self, left: str | None, right: str | None, dataset: str | None, event: gr.EventData) -> str:
        """A picture of one side: both are asked for what is near to it. It has the same id in both collections."""
        return self.ask(left, right, dataset, "this picture", item=str(event.pick).removeprefix("item:"))

    def ask(self, left: str | None, right: str | None, dataset: str | None, about: str, **query: Any) -> str:
        try:
            encoders, collections = self._pair(left, right, dataset)
        except _Missing as missing:
            return missing.drawn
        except ApiError as error:
            return problem(error.message, "The service cannot be reached")
        if not query:
            return INVITATION
        answers: list[Any] = []
        for collection in collections:
            try:
                answers.append(self.client.search(collection, k=SHOWN, **query)["hits"])
            except ApiError as error:
                answers.append(refused(error, "The search was refused"))
        return draw_sides(encoders, collections, answers, about)

    def draw_figures(self, left: str | None, right: str | None) -> str:
        """What both were examined on."""
        if not left or not right or left == right:
            return ""
        try:
            found = self.client.compare_encoders(left, right)
            figures = [self.client.encoder_figures(each) for each in (left, right)]
        except ApiError as error:
            return problem(error.message, "The figures cannot be shown")
        title = heading("Figures of both", "What both were examined on, from the newest evaluation of each.")
        return title + draw_figures([found["left"], found["right"]], found["rows"], figures)

    def _pair(self, left: str | None, right: str | None, dataset: str | None) -> tuple[Sides, list[str]]:
        """Both encoders, and the collection to ask each in. Raises: ApiError; _Missing."""
        sides, collections = _sides(left, right, self.client.encoders()), self.client.collections()
        if sides is None:
            raise _Missing(TOO_FEW)
        wanted = dataset or next(iter(_datasets(*sides, collections)), SAMPLE)
        return sides, _asked_in(sides, wanted, collections)


class _Missing(Exception):
    """What is not there that is needed, drawn."""

    def __init__(self, drawn: str) -> None:
        super().__init__(drawn)
        self.drawn = drawn


def _choices(encoders: Sequence[Json]) -> list[tuple[str, str]]:
    """(name, id) of every encoder, newest first; names that several have are told apart."""
    names = Counter(each["name"] for each in encoders)
    ends = [f" · {each['id'][-4:]}" if names[each["name"]] > 1 else "" for each in encoders]
    return [(each["name"] + end, each["id"]) for each, end in zip(encoders, ends, strict=True)]


def _collections_of(encoder: Json, collections: Sequence[Json]) -> dict[str, str]:
    """{dataset: id of the newest collection of it that this encoder made}."""
    own = [each for each in collections if each["encoder_id"] == encoder["id"] and each["dataset"]]
    return {each["dataset"]: each["id"] for each in reversed(own)}


def _datasets(left: Json, right: Json, collections: Sequence[Json]) -> list[str]:
    """Those of which both have a collection."""
    other = _collections_of(right, collections)
    return [name for name in _collections_of(left, collections) if name in other]


def _sides(left: str | None, right: str | None, encoders: Sequence[Json]) -> Sides | None:
    """The encoders that were chosen; for one that was not, or is gone, the newest that is not the other."""
    known = {each["id"]: each for each in encoders}
    if len(known) < 2:
        return None
    newest, second = list(known)[:2]
    last = right if right in known else newest if newest != left else second
    first = left if left in known else second if second != last else newest
    return known[str(first)], known[str(last)]


def _asked_in(sides: Sides, dataset: str, collections: Sequence[Json]) -> list[str]:
    """The collection of each encoder. Raises: _Missing."""
    if sides[0]["id"] == sides[1]["id"]:
        raise _Missing(SAME)
    own = [_collections_of(each, collections).get(dataset) for each in sides]
    missing = [each for each, collection in zip(sides, own, strict=True) if collection is None]
    if missing:
        raise _Missing(no_collection(missing, dataset))
    return [str(collection) for collection in own]
