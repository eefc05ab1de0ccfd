"""Search tab: text, image or both as query; images or texts with their scores as result; details of one hit."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from api.client import ApiError, Client
from ui.common import (
    BUSY_EVENT,
    SILENT_EVENT,
    api_error_box,
    collection_choices,
    first_choice,
    image_input,
    read_upload,
    update_dropdown,
)
from ui.html import PICK_SCRIPT, error_box
from ui.tabs.search_view import (
    INVITATION,
    NO_COLLECTION,
    NO_PICTURE,
    NOTHING_TO_MIX,
    draw_detail,
    draw_results,
    label_choice,
    link_to,
)

MAX_HITS = 1000  # shown of one search
NEIGHBOUR_IMAGES, NEIGHBOUR_TEXTS = 8, 4  # shown beside a picture
MAX_LABEL_VALUES = 300  # of a label; one with more (the name of each picture, say) is no help in a picker

LabelFilter = dict[str, list[str]]


@dataclass(frozen=True)
class PageQuery:
    """A search as it was made and what it has found so far, so that more of it can be asked for."""

    collection: str | None
    about: str
    target: str
    k: int  # hits a page
    where: LabelFilter
    query: dict[str, Any] = field(repr=False)  # what goes to the service
    offset: int = 0  # where the next page begins
    hits: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    @property
    def link(self) -> str:
        """An address that makes this search, for what fits into one."""
        words_alone = self.query.keys() == {"text"} and self.target == "images" and not self.where
        return link_to(str(self.collection), q=self.query["text"]) if words_alone else ""


class PageResult(NamedTuple):
    """HTML, what was asked, and whether there may be more of it."""

    drawn: str
    asked: PageQuery | None = None
    more: bool = False


class SearchRunner:
    def __init__(self, client: Client) -> None:
        self.client = client

    def ask(
        self, collection: str | None, about: str, target: str, k: int, where: LabelFilter | None = None, **query: Any
    ) -> PageResult:
        """One call to the service; without a collection, of the newest."""
        try:
            collection = collection or first_choice(collection_choices(self.client))
        except ApiError as error:
            return PageResult(error_box(error.message, "The service cannot be reached"))
        if collection is None:
            return PageResult(NO_COLLECTION)
        return self._ask(PageQuery(collection, about, target, int(k), where or {}, query))

    def more(self, asked: PageQuery) -> PageResult:
        """As many again, below those that are there."""
        return self._ask(asked)

    def only(self, asked: PageQuery, where: LabelFilter) -> PageResult:
        """The same search among other pictures."""
        return self._ask(replace(asked, where=where, offset=0, hits=()))

    def look(self, collection: str, item: str) -> str:
        """A picture large, with what is near it; or why it cannot be shown."""
        try:
            record, labels = self.client.item(collection, item), self.pickable(collection)
            near = self.client.search(collection, item=item, k=NEIGHBOUR_IMAGES + 1)["hits"]
            texts = self.client.search(collection, item=item, k=NEIGHBOUR_TEXTS, target="texts")["hits"]
        except ApiError as error:
            return error_box(error.message, "The picture cannot be shown")
        return draw_detail(
            collection, record, [hit for hit in near if hit["id"] != item][:NEIGHBOUR_IMAGES], texts, labels
        )

    def pickable(self, collection: str) -> LabelFilter:
        """{label: values} that pictures can be chosen by. Raises: ApiError."""
        labels = self.client.collection(collection)["labels"]
        return {name: values for name, values in labels.items() if len(values) <= MAX_LABEL_VALUES}

    def _ask(self, asked: PageQuery) -> PageResult:
        """The next page of a search, below those that are there."""
        start = time.perf_counter()
        query: dict[str, Any] = asked.query | ({"where": asked.where} if asked.where else {})
        k = min(asked.k, MAX_HITS - asked.offset)
        try:
            answer = self.client.search(str(asked.collection), target=asked.target, k=k, offset=asked.offset, **query)
        except ApiError as error:
            return PageResult(api_error_box(error, "The search was refused"))
        total_ms = 1000 * (time.perf_counter() - start)
        times = f"{answer['took_ms']:.0f} ms in the service · {total_ms:.0f} ms in all"
        shown = {hit["id"] for hit in asked.hits}  # pictures that came in meanwhile push some onto the next page
        hits = (*asked.hits, *(hit for hit in answer["hits"] if hit["id"] not in shown))
        drawn = draw_results(str(asked.collection), hits, asked.about, asked.target, times, asked.link)
        offset = asked.offset + k
        return PageResult(
            drawn, replace(asked, offset=offset, hits=hits), len(answer["hits"]) == k and offset < MAX_HITS
        )


def parse_label_filter(choices: Sequence[str] | None) -> LabelFilter:
    """From what was picked (``search_view.label_choice``) to the service's filter: of every label one of its values."""
    found: LabelFilter = {}
    for choice in choices or ():
        label, value = json.loads(choice)
        found.setdefault(label, []).append(value)
    return found


TEXT_TO_IMAGES, IMAGE_TO_IMAGES, IMAGE_TO_TEXTS = "Text → images", "Image → images", "Image → texts"
BOTH = "Text + image"
MODES = [TEXT_TO_IMAGES, IMAGE_TO_IMAGES, IMAGE_TO_TEXTS, BOTH]
EMPTY_STATES = {
    TEXT_TO_IMAGES: INVITATION,
    IMAGE_TO_IMAGES: NO_PICTURE,
    IMAGE_TO_TEXTS: NO_PICTURE,
    BOTH: NOTHING_TO_MIX,
}
EXAMPLES = ["dog", "red apple", "airplane", "smiling face", "tree", "musical instrument", "house", "fish"]
RESULT_COUNTS = [12, 24, 48, 96]
FOCUS_SCRIPT = """() => requestAnimationFrame(() => setTimeout(() => (
  document.querySelector('#search-detail h2') ??
  document.querySelector('#search-results [aria-current]') ??
  document.querySelector('#search-results .lcl-results__head') ??
  document.querySelector('.lcl-query textarea, .lcl-query input'))?.focus(), 30))"""


SearchContext = tuple[list[str], int, PageQuery | None]  # labels, results wanted, the search that is on show


class SearchTab:
    title = "Search"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.searches = SearchRunner(client)
        self.ways: dict[str, Callable[[str, str, SearchContext], dict[Any, Any]]] = {
            "image": self._look,
            "text": self._pictures_of,
            "near": self._neighbours,
            "texts": self._texts,
            "mix": self._mix,
            "label": self._only,
            "close": lambda *_: {self.detail: ""},
        }

    def build(self) -> None:
        self.bare = gr.State(False)  # the pane says that there is no collection, or no service
        self.asked = gr.State(None)
        with gr.Column(elem_classes="lcl-panel"):
            with gr.Row(elem_classes="lcl-toolbar"):
                self.mode = gr.Radio(
                    MODES, value=MODES[0], label="Search with", show_label=False, elem_classes="lcl-segment", scale=3
                )
                self.collection = gr.Dropdown(label="Collection", scale=2, min_width=200)
                self.k = gr.Dropdown(RESULT_COUNTS, value=24, label="Results", scale=1, min_width=90)
            with gr.Row(elem_classes="lcl-query"):
                self.text = gr.Textbox(
                    "", label="Words", show_label=False, placeholder="Describe a picture …", max_lines=1, scale=6
                )
                with gr.Column(visible=False, scale=6, min_width=200) as self.frame:
                    self.image = image_input("Picture to search with", height=190)
                self.go = gr.Button("Search", variant="primary", scale=1, min_width=120)
            with gr.Row(elem_classes="lcl-narrowing"):
                with gr.Column(visible=False, scale=3, min_width=260) as self.balance:
                    self.words = gr.Slider(
                        -100, 100, 50, step=5, label="How much the words count, %", info="below 0: away from them",
                        elem_id="search-words",
                    )  # fmt: skip
                with gr.Row(elem_classes="lcl-chips") as self.chips:
                    self.examples = [gr.Button(words, size="sm", min_width=0) for words in EXAMPLES]
                self.where = gr.Dropdown(
                    [], multiselect=True, label="Only pictures with", elem_id="search-where", visible=False, scale=2,
                    min_width=220,
                )  # fmt: skip
        with gr.Row(equal_height=False, elem_classes="lcl-found"):
            self.results = gr.HTML(
                INVITATION, apply_default_css=False, js_on_load=PICK_SCRIPT, elem_id="search-results"
            )
            self.detail = gr.HTML(apply_default_css=False, js_on_load=PICK_SCRIPT, elem_id="search-detail")
        self.more = gr.Button("Show more", visible=False, elem_id="search-more", elem_classes="lcl-more")

    def wire(self, page: gr.Blocks, tab: gr.Tab) -> None:
        self.asking = [self.text, self.frame, self.balance, self.chips]
        self.found = [self.results, self.asked, self.more]
        query = [self.mode, self.collection, self.text, self.image, self.words, self.where, self.k]
        known = [self.collection, self.bare, self.where]
        page.load(self.refresh, known, [*known, self.results], **SILENT_EVENT).then(
            self.open_link, self.k, [self.collection, self.text, *self.found, self.detail], **SILENT_EVENT
        )
        tab.select(self.refresh, known, [*known, self.results], **SILENT_EVENT)
        self.mode.input(self.switch, self.mode, [*self.asking, *self.found], **SILENT_EVENT)
        for event in (self.go.click, self.text.submit, self.image.upload):
            event(self.search, query, self.found, **BUSY_EVENT)
        self.k.input(self.search_again, query, self.found, **BUSY_EVENT)
        self.where.change(self.narrow, [self.where, self.asked], self.found, **BUSY_EVENT)
        self.words.change(self.search_again, query, self.found, trigger_mode="always_last", **BUSY_EVENT)
        self.collection.input(self.move, query, [self.where, *self.found], **BUSY_EVENT)
        for button, words in zip(self.examples, EXAMPLES, strict=True):
            button.click(lambda words=words: words, outputs=self.text, **SILENT_EVENT).then(
                self.search, query, self.found, **BUSY_EVENT
            )
        self.more.click(self.show_more, self.asked, self.found, **BUSY_EVENT)
        shown = [self.mode, *self.asking, self.image, self.where, *self.found, self.detail]
        for pane in (self.results, self.detail):
            pane.select(self.follow, [self.where, self.k, self.asked], shown, **BUSY_EVENT).then(None, js=FOCUS_SCRIPT)

    def refresh(self, current: str | None, bare: bool, where: Sequence[str] | None = None) -> tuple[Any, ...]:
        """Collections may have come or gone; results that are on show stay."""
        try:
            choices = collection_choices(self.client)
        except ApiError as error:
            words = error_box(error.message, "The service cannot be reached")
            return gr.skip(), bare or not current, gr.skip(), gr.skip() if current else words
        if not choices:
            return update_dropdown([], None), True, gr.skip(), NO_COLLECTION
        chosen = current if current in dict(choices).values() else first_choice(choices)
        return update_dropdown(choices, chosen), False, self.labels(chosen, where)[0], INVITATION if bare else gr.skip()

    def labels(self, collection: str | None, where: Sequence[str] | None) -> tuple[Any, list[str]]:
        """What a collection's pictures can be chosen by; and of what was chosen that which is there."""
        try:
            labels = self.searches.pickable(str(collection))
        except ApiError:
            return gr.skip(), list(where or ())
        choices = [(f"{name}: {value}", label_choice(name, value)) for name in labels for value in sorted(labels[name])]
        known = {value for _, value in choices}
        kept = [value for value in where or () if value in known]
        return gr.Dropdown(choices=choices, value=kept, multiselect=True, visible=bool(choices)), kept

    def open_link(self, k: int, request: gr.Request) -> tuple[Any, ...]:
        """``?collection=NAME&q=words`` opens with what the words find, ``?collection=NAME&item=ID`` with a picture."""
        wanted, words, item, tab = (request.query_params.get(name, "") for name in ("collection", "q", "item", "tab"))
        if not (words.strip() or item) or tab not in ("", "search"):
            return (gr.skip(),) * 6
        try:
            known = self.client.collections()
        except ApiError:
            return (gr.skip(),) * 6  # which is said already
        named = [each["id"] for each in known if wanted in ("", each["id"], each["name"])]
        if not named:
            lost = error_box(f"There is no collection {wanted!r}.", "This address leads nowhere")
            return gr.skip(), gr.skip(), lost, None, gr.skip(), gr.skip()
        found: tuple[Any, ...] = (gr.skip(),) * 3
        if words.strip():
            found = _result_updates(self.searches.ask(named[0], f"“{words.strip()}”", "images", k, text=words.strip()))
        return named[0], words.strip(), *found, self.searches.look(named[0], item) if item else gr.skip()

    def switch(self, mode: str) -> tuple[Any, ...]:
        """Ask with words, with a picture, or with both."""
        return *_query_visibility(mode), *_result_updates(PageResult(EMPTY_STATES[mode]))

    def search(
        self, mode: str, collection: str | None, text: str, image: str | None, words: float, where: list[str], k: int
    ) -> tuple[Any, ...]:
        """The results, or in words why there are none."""
        said = text.strip() if mode in (TEXT_TO_IMAGES, BOTH) else ""
        picture = image if mode != TEXT_TO_IMAGES else None
        if not (said or picture):
            return _result_updates(PageResult(EMPTY_STATES[mode]))
        query: dict[str, Any] = {"text": said} if said else {}
        if picture:
            query["image"] = read_upload(picture)
        if said and picture:
            query["weights"] = {"text": words / 100, "image": 1 - abs(words) / 100}
        about = [*(["your picture"] if picture else []), *([f"“{said}”"] if said else [])]
        target = "texts" if mode == IMAGE_TO_TEXTS else "images"
        joined = (" away from " if words < 0 else " and ").join(about)
        return _result_updates(self.searches.ask(collection, joined, target, k, parse_label_filter(where), **query))

    def search_again(
        self, mode: str, collection: str | None, text: str, image: str | None, words: float, where: list[str], k: int
    ) -> tuple[Any, ...]:
        """After a change of collection, labels, balance or count: only when there is something to look for."""
        found = self.search(mode, collection, text, image, words, where, k)
        return found if found[0] != EMPTY_STATES[mode] else (gr.skip(),) * 3

    def move(
        self, mode: str, collection: str | None, text: str, image: str | None, words: float, where: list[str], k: int
    ) -> tuple[Any, ...]:
        """Another collection: its labels, and what it holds of what was looked for."""
        picker, kept = self.labels(collection, where)
        return picker, *self.search_again(mode, collection, text, image, words, kept, k)

    def narrow(self, where: list[str], asked: PageQuery | None) -> tuple[Any, ...]:
        """The search that is on show, among the pictures with other labels than before."""
        if asked is None or asked.where == parse_label_filter(where):
            return (gr.skip(),) * 3
        return _result_updates(self.searches.only(asked, parse_label_filter(where)))

    def show_more(self, asked: PageQuery | None) -> tuple[Any, ...]:
        return _result_updates(self.searches.more(asked)) if asked else (gr.skip(),) * 3

    def follow(self, where: list[str], k: int, asked: PageQuery | None, event: gr.EventData) -> dict[Any, Any]:
        """What was pressed in the results, or beside the picture that is looked at."""
        kind, collection, value = (*str(event.pick).split(":", 2), "", "")[:3]
        try:
            return self.ways[kind](collection, value, (where, k, asked))
        except ApiError as error:
            return {self.results: error_box(error.message)}

    def _look(self, collection: str, item: str, _: SearchContext) -> dict[Any, Any]:
        return {self.detail: self.searches.look(collection, item)}

    def _pictures_of(self, collection: str, words: str, chosen: SearchContext) -> dict[Any, Any]:
        """What a text finds, as if one had typed it."""
        found = self.searches.ask(
            collection, f"“{words}”", "images", chosen[1], parse_label_filter(chosen[0]), text=words
        )
        return self._anew(TEXT_TO_IMAGES, found) | {self.text: gr.Textbox(words, visible=True)}

    def _neighbours(self, collection: str, item: str, chosen: SearchContext) -> dict[Any, Any]:
        found = self.searches.ask(
            collection, "this picture", "images", chosen[1], parse_label_filter(chosen[0]), item=item
        )
        return self._anew(IMAGE_TO_IMAGES, found) | {self.image: self._picture(collection, item)}

    def _texts(self, collection: str, item: str, chosen: SearchContext) -> dict[Any, Any]:
        found = self.searches.ask(
            collection, "this picture", "texts", chosen[1], parse_label_filter(chosen[0]), item=item
        )
        return self._anew(IMAGE_TO_TEXTS, found) | {self.image: self._picture(collection, item)}

    def _mix(self, collection: str, item: str, _: SearchContext) -> dict[Any, Any]:
        """The picture is there; the words are to be typed."""
        asking = {self.text: gr.Textbox("", visible=True), self.image: self._picture(collection, item)}
        return self._anew(BOTH, PageResult(NOTHING_TO_MIX)) | asking

    def _only(self, _: str, choice: str, chosen: SearchContext) -> dict[Any, Any]:
        """The search that is on show, only among pictures with this label."""
        labels, asked = [*chosen[0], *([] if choice in chosen[0] else [choice])], chosen[2]
        found = _result_updates(self.searches.only(asked, parse_label_filter(labels))) if asked else (gr.skip(),) * 3
        return {self.where: labels, **dict(zip(self.found, found, strict=True)), self.detail: ""}

    def _anew(self, mode: str, found: PageResult) -> dict[Any, Any]:
        """The form and the results as if one had asked in this mode."""
        asking = dict(zip(self.asking, _query_visibility(mode), strict=True))
        return {
            self.mode: mode,
            **asking,
            **dict(zip(self.found, _result_updates(found), strict=True)),
            self.detail: "",
        }

    def _picture(self, collection: str, item: str) -> Image.Image:
        """Raises: ApiError."""
        return Image.open(io.BytesIO(self.client.item_image(collection, item)))


def _query_visibility(mode: str) -> tuple[Any, Any, Any, Any]:
    """What is visible of the text box, the picture, the balance of both, and the examples."""
    words, picture = mode in (TEXT_TO_IMAGES, BOTH), mode != TEXT_TO_IMAGES
    return (
        gr.Textbox(visible=words), gr.Column(visible=picture), gr.Column(visible=mode == BOTH),
        gr.Row(visible=mode == TEXT_TO_IMAGES),
    )  # fmt: skip


def _result_updates(found: PageResult) -> tuple[Any, ...]:
    """The results, what was asked, and the button for more."""
    return found.drawn, found.asked, gr.Button(visible=found.more)
