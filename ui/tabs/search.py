"""Search tab: text, image or both as query; images or texts with their scores as result; details of one hit."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from api.client import ApiError, Client
from ui.addresses import mark_view, read_address
from ui.common import (
    BUSY_EVENT,
    SILENT_EVENT,
    PageSelection,
    api_error_box,
    first_choice,
    html_pane,
    image_input,
    read_upload,
    unreachable_box,
    update_dropdown,
)
from ui.html import ACTIVE_STATES, PICK_SCRIPT, error_box
from ui.ranking import collection_choices, last_used, used_script
from ui.tabs.search_view import (
    INVITATION,
    NO_COLLECTION,
    NO_IMAGE,
    NO_WORDS,
    NOTHING_TO_MIX,
    SEARCH_STATUS,
    draw_detail,
    draw_preparation,
    draw_results,
    label_choice,
    link_to,
)

MAX_HITS = 1000  # of one search
NEIGHBOUR_IMAGES, NEIGHBOUR_TEXTS = 8, 4  # in the details of an image
MAX_LABEL_VALUES = 300  # of a label; one with more, such as the file name, is not offered as a filter

TEXT_TO_IMAGES, IMAGE_TO_IMAGES, IMAGE_TO_TEXTS = "Text → images", "Image → images", "Image → texts"
BOTH = "Text + image"
MODES = [TEXT_TO_IMAGES, IMAGE_TO_IMAGES, IMAGE_TO_TEXTS, BOTH]
MODE_PARAMETERS = {TEXT_TO_IMAGES: "", IMAGE_TO_IMAGES: "images", IMAGE_TO_TEXTS: "texts", BOTH: "both"}
EMPTY_STATES = {
    TEXT_TO_IMAGES: INVITATION,
    IMAGE_TO_IMAGES: NO_IMAGE,
    IMAGE_TO_TEXTS: NO_IMAGE,
    BOTH: NOTHING_TO_MIX,
}
EXAMPLES = ["umbrella", "guitar", "flower", "airplane", "moon", "fruit", "house", "tree"]
POLL_SECONDS = 3  # between two looks for the first collection
RESULT_COUNTS = [12, 24, 48, 96]
DEFAULT_COUNT, DEFAULT_WEIGHT = 24, 50
# before and after each search (page.js)
BEGIN_SCRIPT = "(...inputs) => { window.lclSearch.begin(); return inputs; }"
END_SCRIPT = "() => window.lclSearch.end()"
CANCEL_SCRIPT = "window.addEventListener('lcl-cancel', () => trigger('select', {}));"
FOCUS_SCRIPT = """() => requestAnimationFrame(() => setTimeout(() => (
  document.querySelector('#search-detail h2') ??
  document.querySelector('#search-results [aria-current]') ??
  document.querySelector('#search-results .lcl-results__head') ??
  document.querySelector('.lcl-query textarea, .lcl-query input'))?.focus(), 30))"""

LabelFilter = dict[str, list[str]]


@dataclass(frozen=True)
class PageQuery:
    """A search and its hits so far, for further pages."""

    collection: str | None
    about: str
    target: str
    k: int  # hits a page
    where: LabelFilter
    query: dict[str, Any] = field(repr=False)  # arguments of Client.search
    mode: str = TEXT_TO_IMAGES
    words: float = DEFAULT_WEIGHT  # how much they count, of BOTH
    offset: int = 0  # of the next page
    hits: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    @property
    def link(self) -> str:
        """Address of this search; empty for a search with an image, labels or texts as target."""
        text_only = self.query.keys() == {"text"} and self.target == "images" and not self.where
        return link_to(str(self.collection), q=self.query["text"]) if text_only else ""

    def mark(self, html: str) -> str:
        """``html`` with the address of this search. An uploaded image is no part of it."""
        return mark_view(
            html,
            f"«{self.query['text']}»" if "text" in self.query else "Similar to an image",
            q=self.query.get("text"),
            like=self.query.get("item"),
            mode=MODE_PARAMETERS[self.mode],
            words=f"{self.words:g}" if self.mode == BOTH and self.words != DEFAULT_WEIGHT else None,
            collection=self.collection,
            where=json.dumps(self.where, ensure_ascii=False) if self.where else None,
            k=self.k if self.k != DEFAULT_COUNT else None,
        )


class PageResult(NamedTuple):
    """HTML, the search, and whether there may be more hits."""

    html: str
    query: PageQuery | None = None
    more: bool = False


class SearchRunner:
    def __init__(self, client: Client) -> None:
        self.client = client

    def run(
        self,
        collection: str | None,
        about: str,
        target: str,
        k: int,
        where: LabelFilter | None = None,
        *,
        mode: str = TEXT_TO_IMAGES,
        words: float = DEFAULT_WEIGHT,
        **query: Any,
    ) -> PageResult:
        """First page of a search; default collection: that of the best encoder."""
        try:
            collection = collection or first_choice(collection_choices(self.client))
        except ApiError as error:
            return PageResult(unreachable_box(error))
        if collection is None:
            return PageResult(NO_COLLECTION)
        return self.next_page(PageQuery(collection, about, target, int(k), where or {}, query, mode, words))

    def filter(self, current: PageQuery, where: LabelFilter) -> PageResult:
        """The same search with other labels."""
        return self.next_page(replace(current, where=where, offset=0, hits=()))

    def details(self, collection: str, item: str, *, searches: bool = True) -> str:
        """Details of an image, or an error. ``searches``: as of ``draw_detail``."""
        try:
            record = self.client.item(collection, item)
            labels = self.pickable(collection) if searches else {}
            near = self.client.search(collection, item=item, k=NEIGHBOUR_IMAGES + 1)["hits"]
            texts = self.client.search(collection, item=item, k=NEIGHBOUR_TEXTS, target="texts")["hits"]
        except ApiError as error:
            return error_box(error.message, "The image cannot be shown")
        others = [hit for hit in near if hit["id"] != item][:NEIGHBOUR_IMAGES]
        drawn = draw_detail(collection, record, others, texts, labels, searches=searches)
        captions = record.get("captions") or [item]
        return mark_view(drawn, str(captions[0]), item=item, collection=collection)

    def pickable(self, collection: str) -> LabelFilter:
        """{label: values} that a search can be filtered by. Raises: ApiError."""
        labels = self.client.collection(collection)["labels"]
        return {name: values for name, values in labels.items() if len(values) <= MAX_LABEL_VALUES}

    def next_page(self, current: PageQuery) -> PageResult:
        """Fetch the next page and draw it after the hits so far."""
        start = time.perf_counter()
        query: dict[str, Any] = current.query | ({"where": current.where} if current.where else {})
        k = min(current.k, MAX_HITS - current.offset)
        try:
            answer = self.client.search(
                str(current.collection), target=current.target, k=k, offset=current.offset, **query
            )
        except ApiError as error:
            return PageResult(current.mark(api_error_box(error, "The search was refused")))
        total_ms = 1000 * (time.perf_counter() - start)
        times = f"{answer['took_ms']:.0f} ms in the service · {total_ms:.0f} ms in all"
        shown = {hit["id"] for hit in current.hits}  # items added since can move a hit to the next page
        hits = (*current.hits, *(hit for hit in answer["hits"] if hit["id"] not in shown))
        drawn = draw_results(str(current.collection), hits, current.about, current.target, times, current.link)
        offset = current.offset + k
        more = len(answer["hits"]) == k and offset < MAX_HITS
        return PageResult(current.mark(drawn), replace(current, offset=offset, hits=hits), more)


def newest(handler: Callable[..., tuple[Any, ...]], *, begins: bool = True) -> Callable[..., tuple[Any, ...]]:
    """``handler`` behind a turn (a PageSelection of a number): it changes nothing if a newer search began meanwhile.

    Args:
        begins: the event begins a search. Otherwise it continues the one on show.
    """

    def event(turn: PageSelection[int], *arguments: Any) -> tuple[Any, ...]:
        turn.current += begins
        mine = turn.current
        result = handler(*arguments)
        return result if turn.current == mine else (gr.skip(),) * len(result)

    event.__name__ = getattr(handler, "__name__", event.__name__)  # Gradio's logs name an event by it
    return event


def parse_label_filter(choices: Sequence[str] | None) -> LabelFilter:
    """The service's filter from dropdown values (``search_view.label_choice``): one of the values of every label."""
    result: LabelFilter = {}
    for choice in choices or ():
        label, value = json.loads(choice)
        result.setdefault(label, []).append(value)
    return result


SearchContext = tuple[list[str], int, PageQuery | None]  # labels, page size, current search
Anchor = tuple[str, str] | None  # collection and item of an image input that was taken from a collection


class OpenedSearch(NamedTuple):
    """Updates of the components that an address changes."""

    collection: Any = gr.skip()
    mode: Any = gr.skip()
    text: Any = gr.skip()
    frame: Any = gr.skip()
    balance: Any = gr.skip()
    chips: Any = gr.skip()
    image: Any = gr.skip()
    anchor: Any = gr.skip()
    words: Any = gr.skip()
    where: Any = gr.skip()
    k: Any = gr.skip()
    results: Any = gr.skip()
    current: Any = gr.skip()
    more: Any = gr.skip()
    detail: Any = gr.skip()


class SearchTab:
    title = "Search"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.runner = SearchRunner(client)
        self.actions: dict[str, Callable[[str, str, SearchContext], dict[Any, Any]]] = {
            "image": self._show_details,
            "text": self._images_of_text,
            "near": partial(self._neighbours, IMAGE_TO_IMAGES),
            "texts": partial(self._neighbours, IMAGE_TO_TEXTS),
            "mix": self._mix,
            "label": self._add_label,
            "close": lambda *_: {self.detail: ""},
        }

    def build(self) -> None:
        self.bare = gr.State(False)  # does the pane show a placeholder?
        self.current = gr.State(None)
        self.anchor = gr.State(None)
        self.turn = gr.State(PageSelection(0))  # number of the newest search
        with gr.Column(elem_classes="lcl-panel"):
            with gr.Row(elem_classes="lcl-toolbar"):
                self.mode = gr.Radio(
                    MODES, value=MODES[0], label="Search with", show_label=False, elem_classes="lcl-segment", scale=3
                )
                self.collection = gr.Dropdown(label="Collection", scale=2, min_width=200)
                self.k = gr.Dropdown(RESULT_COUNTS, value=DEFAULT_COUNT, label="Results", scale=1, min_width=90)
            with gr.Row(elem_classes="lcl-query"):
                self.text = gr.Textbox(
                    "", label="Words", show_label=False, placeholder="Describe an image …", max_lines=1, scale=6
                )
                with gr.Column(visible=False, scale=6, min_width=200) as self.frame:
                    self.image = image_input("Image to search with", height=190)
                self.go = gr.Button("Search", variant="primary", scale=1, min_width=120, elem_id="search-go")
            with gr.Row(elem_classes="lcl-narrowing"):
                with gr.Column(visible=False, scale=3, min_width=260) as self.balance:
                    self.words = gr.Slider(
                        -100, 100, DEFAULT_WEIGHT, step=5, label="How much the words count, %",
                        info="below 0: away from them", elem_id="search-words",
                    )  # fmt: skip
                with gr.Row(elem_classes="lcl-chips") as self.chips:
                    self.examples = [gr.Button(words, size="sm", min_width=0) for words in EXAMPLES]
                self.where = gr.Dropdown(
                    [], multiselect=True, label="Only images with", elem_id="search-where", visible=False, scale=2,
                    min_width=220,
                )  # fmt: skip
        self.cancelled = html_pane(js_on_load=CANCEL_SCRIPT)
        html_pane(SEARCH_STATUS, elem_id="search-status")
        with gr.Row(equal_height=False, elem_classes="lcl-found"):
            self.results = html_pane(INVITATION, js_on_load=PICK_SCRIPT, elem_id="search-results")
            self.detail = html_pane(js_on_load=PICK_SCRIPT, elem_id="search-detail")
        self.more = gr.Button("Show more", visible=False, elem_id="search-more", elem_classes="lcl-more")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        self.query_inputs = [self.text, self.frame, self.balance, self.chips]
        self.result_outputs = [self.results, self.current, self.more]
        query = [self.mode, self.collection, self.text, self.image, self.words, self.where, self.k, self.anchor]
        known = [self.collection, self.bare, self.where]
        opening = [self.image, self.anchor]
        opened = [
            self.collection, self.mode, *self.query_inputs, self.image, self.anchor, self.words, self.where, self.k,
            *self.result_outputs, self.detail,
        ]  # fmt: skip
        page.load(self.refresh, known, [*known, self.results], **SILENT_EVENT).then(
            self.open_link, opening, opened, **SILENT_EVENT
        )
        # without a collection the page looks for one until it is there
        self.clock = gr.Timer(POLL_SECONDS)
        self.clock.tick(self.poll, known, [*known, self.results, self.clock], **SILENT_EVENT)
        navigation.select(self.open_address, opening, opened, **SILENT_EVENT)
        tab.select(self.refresh, known, [*known, self.results], **SILENT_EVENT)
        # of searches under way at one time the newest is drawn: none is dropped while another waits for an encoder
        asked, several = [self.turn, *query], BUSY_EVENT | {"trigger_mode": "multiple", "js": BEGIN_SCRIPT}
        search, search_again = newest(self.search), newest(self.search_again)
        uploaded = newest(lambda *query: (*self.search(*query[:-1]), None))  # the image of no collection
        begun = [
            self.mode.input(newest(self.switch), asked, [*self.query_inputs, *self.result_outputs], **several),
            gr.on([self.go.click, self.text.submit], newest(self.submit_query), asked, self.result_outputs, **several),
            self.image.upload(uploaded, asked, [*self.result_outputs, self.anchor], **several),
            self.k.input(search_again, asked, self.result_outputs, **several),
            self.collection.input(newest(self.change_collection), asked, [self.where, *self.result_outputs], **several),
        ]
        for button, words in zip(self.examples, EXAMPLES, strict=True):
            typed = button.click(lambda words=words: words, outputs=self.text, **SILENT_EVENT)
            begun.append(typed.then(search, asked, self.result_outputs, **several))
        for event in begun:
            event.then(None, js=END_SCRIPT)
        self._wire_results(search_again, asked)

    def _wire_results(self, search_again: Callable[..., Any], asked: list[Any]) -> None:
        """Events that change the search on show."""
        self.collection.input(None, self.collection, js=used_script("collection"))
        self.image.clear(lambda: None, None, self.anchor, **SILENT_EVENT)
        self.cancelled.select(self.cancel, self.turn, None, **SILENT_EVENT)
        self.where.change(
            newest(self.change_filter, begins=False), [self.turn, self.where, self.current], self.result_outputs,
            **BUSY_EVENT,
        )  # fmt: skip
        self.words.change(search_again, asked, self.result_outputs, **BUSY_EVENT | {"trigger_mode": "always_last"})
        more = newest(self.show_more, begins=False)
        self.more.click(more, [self.turn, self.current], self.result_outputs, **BUSY_EVENT)
        shown = [
            self.mode, *self.query_inputs, self.image, self.anchor, self.where, *self.result_outputs, self.detail
        ]  # fmt: skip
        for pane in (self.results, self.detail):
            pane.select(self.follow, [self.where, self.k, self.current], shown, **BUSY_EVENT).then(
                None, js=FOCUS_SCRIPT
            )

    def refresh(
        self,
        current: str | None,
        bare: bool,
        where: Sequence[str] | None = None,
        request: gr.Request | None = None,
    ) -> tuple[Any, ...]:
        """Update the collections. Results that are shown stay."""
        try:
            choices = collection_choices(self.client)
        except ApiError as error:
            words = unreachable_box(error)
            return gr.skip(), bare or not current, gr.skip(), gr.skip() if current else words
        if not choices:
            return update_dropdown([], None), True, gr.skip(), self.preparation()
        known = dict(choices).values()
        used = (id for id in (current, last_used(request, "collection")) if id in known)
        chosen = next(used, first_choice(choices))
        return update_dropdown(choices, chosen), False, self.labels(chosen, where)[0], INVITATION if bare else gr.skip()

    def poll(
        self, current: str | None, bare: bool, where: Sequence[str] | None, request: gr.Request | None = None
    ) -> tuple[Any, ...]:
        """Update the collections until there is one."""
        if not bare:
            return *(gr.skip(),) * 4, gr.Timer(active=False)
        return *self.refresh(current, bare, where, request), gr.skip()

    def preparation(self) -> str:
        """Without a collection: the progress of the run that makes the first one, or how to make one."""
        try:
            runs = self.client.runs(kind="index")["items"]
        except ApiError:
            return NO_COLLECTION
        run = next((run for run in runs if run["state"] in ACTIVE_STATES), None)
        return NO_COLLECTION if run is None else draw_preparation(run)

    def labels(self, collection: str | None, where: Sequence[str] | None) -> tuple[Any, list[str]]:
        """Labels of a collection as choices, and those of ``where`` that exist."""
        try:
            labels = self.runner.pickable(str(collection))
        except ApiError:
            return gr.skip(), list(where or ())
        choices = [(f"{name}: {value}", label_choice(name, value)) for name in labels for value in sorted(labels[name])]
        known = {value for _, value in choices}
        kept = [value for value in where or () if value in known]
        return gr.Dropdown(choices=choices, value=kept, multiselect=True, visible=bool(choices)), kept

    def open_link(self, image: str | None, anchor: Anchor, request: gr.Request) -> OpenedSearch:
        """What the address of a new page says: ``?collection=NAME&q=words``, ``?collection=NAME&item=ID``."""
        return self.open_address(image, anchor, request) if read_address(request, "search") else OpenedSearch()

    def open_address(self, image: str | None, anchor: Anchor, request: gr.Request) -> OpenedSearch:
        """The search and the image of the address; without a search, the empty page.

        Args:
            image: of the image input, ``anchor`` says from where. An uploaded one is searched with again.
        """
        address = read_address(request, "search")
        mode = next((mode for mode, name in MODE_PARAMETERS.items() if name == address.get("mode", "")), MODES[0])
        name, item = address.get("collection", ""), address.get("item", "")
        try:
            known = self.client.collections()
        except ApiError:
            return OpenedSearch()  # refresh has reported it
        named = [each["id"] for each in known if name in ("", each["id"], each["name"])]
        if not named:
            lost = error_box(f"There is no collection {name!r}.", "Not found")
            return OpenedSearch(results=lost if name else self.preparation(), current=None, detail="")
        collection, text, like = named[0], address.get("q", "").strip(), address.get("like", "")
        picture = image if anchor is None and not like else None
        anchor = (collection, like) if like else None
        words, k = _number(address.get("words"), DEFAULT_WEIGHT), int(_number(address.get("k"), DEFAULT_COUNT))
        k = k if k in RESULT_COUNTS else DEFAULT_COUNT
        picker, where = self.labels(collection, _filter_choices(address.get("where", "")))
        if mode == BOTH and like and not text:
            drawn = _result_updates(PageResult(_empty_state(BOTH, collection, like)))
        else:
            drawn = self.search(mode, collection, text, picture, words, where, k, anchor)
        try:
            fetched = self._fetch_image(collection, like) if like else gr.skip() if picture else None
        except ApiError:
            fetched = None
        detail = self.runner.details(collection, item) if item else ""
        _, frame, balance, chips = _query_visibility(mode)
        field = gr.Textbox(text, visible=mode in (TEXT_TO_IMAGES, BOTH))
        results, current, more = drawn
        inputs = (collection, mode, field, frame, balance, chips, fetched, anchor, words, picker, k)
        return OpenedSearch(*inputs, results, current, more, detail)

    def switch(self, mode: str, *query: Any) -> tuple[Any, ...]:
        """Show the inputs of a mode, and search with those that are filled."""
        return *_query_visibility(mode), *self.search(mode, *query)

    def search(
        self,
        mode: str,
        collection: str | None,
        text: str,
        image: str | None,
        words: float,
        where: list[str],
        k: int,
        anchor: Anchor = None,
    ) -> tuple[Any, ...]:
        """Results, or an error.

        Args:
            anchor: where the image comes from; of this collection, it is searched with by its id.
        """
        query_text = text.strip() if mode in (TEXT_TO_IMAGES, BOTH) else ""
        item = anchor[1] if anchor and mode != TEXT_TO_IMAGES and collection in (None, anchor[0]) else None
        picture = image if mode != TEXT_TO_IMAGES and item is None else None
        if not (query_text or picture or item):
            return _result_updates(PageResult(_empty_state(mode)))
        query: dict[str, Any] = {"text": query_text} if query_text else {}
        query |= {"item": item} if item else {}
        if picture:
            query["image"] = read_upload(picture)
        if query_text and (picture or item):
            query["weights"] = {"text": words / 100, "item" if item else "image": 1 - abs(words) / 100}
        seen = "this image" if item and mode != BOTH else "your image" if item or picture else ""
        about = [*([seen] if seen else []), *([f"“{query_text}”"] if query_text else [])]
        target = "texts" if mode == IMAGE_TO_TEXTS else "images"
        joined = (" away from " if words < 0 else " and ").join(about)
        filters = parse_label_filter(where)
        return _result_updates(self.runner.run(collection, joined, target, k, filters, mode=mode, words=words, **query))

    def submit_query(self, mode: str, *query: Any) -> tuple[Any, ...]:
        """As ``search``; without words, what is missing."""
        result = self.search(mode, *query)
        missing = mode == TEXT_TO_IMAGES and result[0] == _empty_state(mode)
        return _result_updates(PageResult(NO_WORDS)) if missing else result

    def cancel(self, turn: PageSelection[int]) -> None:
        """No search under way changes anything any more."""
        turn.current += 1

    def search_again(self, mode: str, *query: Any) -> tuple[Any, ...]:
        """After a change of an option: search only if there is a query."""
        result = self.search(mode, *query)
        return result if result[0] != _empty_state(mode) else (gr.skip(),) * 3

    def change_collection(
        self,
        mode: str,
        collection: str | None,
        text: str,
        image: str | None,
        words: float,
        where: list[str],
        *more: Any,
    ) -> tuple[Any, ...]:
        """Another collection: its labels, and the same query."""
        picker, kept = self.labels(collection, where)
        return picker, *self.search_again(mode, collection, text, image, words, kept, *more)

    def change_filter(self, where: list[str], current: PageQuery | None) -> tuple[Any, ...]:
        """The current search with other labels."""
        if current is None or current.where == parse_label_filter(where):
            return (gr.skip(),) * 3
        return _result_updates(self.runner.filter(current, parse_label_filter(where)))

    def show_more(self, current: PageQuery | None) -> tuple[Any, ...]:
        return _result_updates(self.runner.next_page(current)) if current else (gr.skip(),) * 3

    def follow(self, where: list[str], k: int, current: PageQuery | None, event: gr.EventData) -> dict[Any, Any]:
        """Action of a button in the results or in the details."""
        kind, collection, value = (*str(event.pick).split(":", 2), "", "")[:3]
        try:
            return self.actions[kind](collection, value, (where, k, current))
        except ApiError as error:
            return {self.results: error_box(error.message)}

    def _show_details(self, collection: str, item: str, _: SearchContext) -> dict[Any, Any]:
        return {self.detail: self.runner.details(collection, item)}

    def _images_of_text(self, collection: str, words: str, context: SearchContext) -> dict[Any, Any]:
        result = self._run(collection, f"“{words}”", "images", context, text=words)
        return self._new_search(TEXT_TO_IMAGES, result) | {self.text: gr.Textbox(words, visible=True)}

    def _neighbours(self, mode: str, collection: str, item: str, context: SearchContext) -> dict[Any, Any]:
        target = "texts" if mode == IMAGE_TO_TEXTS else "images"
        result = self._run(collection, "this image", target, context, mode=mode, item=item)
        return self._new_search(mode, result) | self._image_input(collection, item)

    def _run(self, collection: str, about: str, target: str, context: SearchContext, **query: Any) -> PageResult:
        where, k, _ = context
        return self.runner.run(collection, about, target, k, parse_label_filter(where), **query)

    def _mix(self, collection: str, item: str, _: SearchContext) -> dict[Any, Any]:
        """Use the image as query; the user adds words."""
        asking = {self.text: gr.Textbox("", visible=True)} | self._image_input(collection, item)
        return self._new_search(BOTH, PageResult(_empty_state(BOTH, collection, item))) | asking

    def _add_label(self, _: str, choice: str, context: SearchContext) -> dict[Any, Any]:
        """Add a label to the filter of the current search."""
        where, _k, current = context
        labels = where if choice in where else [*where, choice]
        result = self.change_filter(labels, current)
        return {self.where: labels, **dict(zip(self.result_outputs, result, strict=True)), self.detail: ""}

    def _new_search(self, mode: str, result: PageResult) -> dict[Any, Any]:
        """Inputs of the mode, and results."""
        inputs = zip(self.query_inputs, _query_visibility(mode), strict=True)
        outputs = zip(self.result_outputs, _result_updates(result), strict=True)
        return {self.mode: mode, **dict(inputs), **dict(outputs), self.detail: ""}

    def _image_input(self, collection: str, item: str) -> dict[Any, Any]:
        """An image of a collection as query. Raises: ApiError."""
        return {self.image: self._fetch_image(collection, item), self.anchor: (collection, item)}

    def _fetch_image(self, collection: str, item: str) -> Image.Image:
        """Raises: ApiError."""
        return Image.open(io.BytesIO(self.client.item_image(collection, item)))


def _query_visibility(mode: str) -> tuple[Any, Any, Any, Any]:
    """Visibility of text, image, balance and examples."""
    words, picture = mode in (TEXT_TO_IMAGES, BOTH), mode != TEXT_TO_IMAGES
    return (
        gr.Textbox(visible=words), gr.Column(visible=picture), gr.Column(visible=mode == BOTH),
        gr.Row(visible=mode == TEXT_TO_IMAGES),
    )  # fmt: skip


def _empty_state(mode: str, collection: str | None = None, item: str | None = None) -> str:
    """What to do in a mode, with its address; ``item``: the image that awaits its words."""
    return mark_view(EMPTY_STATES[mode], mode=MODE_PARAMETERS[mode], collection=collection, like=item)


def _filter_choices(parameter: str) -> list[str]:
    """``where`` of an address as values of the dropdown; none where it is no filter."""
    try:
        where = json.loads(parameter or "{}")
        return [label_choice(str(label), str(value)) for label, values in where.items() for value in values]
    except (ValueError, AttributeError, TypeError):
        return []


def _number(parameter: str | None, default: float) -> float:
    try:
        return min(100.0, max(-100.0, float(parameter or default)))
    except ValueError:
        return default


def _result_updates(result: PageResult) -> tuple[Any, ...]:
    """Results, search, and the button for more."""
    return result.html, result.query, gr.Button(visible=result.more)
