"""Search tab: text, image or both as query; images or texts with their scores as result; details of one hit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from api.client import ApiError, Client, UserError
from ui.addresses import read_address
from ui.common import (
    BUSY_EVENT,
    EACH_COUNTS,
    LAST_COUNTS,
    NUMBER_SCRIPT,
    SILENT_EVENT,
    PageSelection,
    html_pane,
    image_input,
    newest,
    parse_tag_change,
    read_upload,
    run_after,
    seen_script,
    select_choice,
    unreachable_box,
    update_dropdown,
)
from ui.file_routes import image_media_type
from ui.html import ACTIVE_STATES, PICK_SCRIPT, error_box, toast
from ui.ranking import collection_choices, linked_collection, preferred_collection, used_script
from ui.session_files import UploadError, store_file
from ui.tabs.search_query import (
    BOTH,
    DEFAULT_COUNT,
    DEFAULT_WEIGHT,
    IMAGE_TO_IMAGES,
    IMAGE_TO_TEXTS,
    MODE_PARAMETERS,
    MODES,
    TEXT_MODES,
    TEXT_TO_IMAGES,
    PageQuery,
    PageResult,
    SearchRunner,
    draw_empty,
    filter_choices,
    parse_label_filter,
)
from ui.tabs.search_view import (
    BEGIN_SCRIPT,
    CANCEL_SCRIPT,
    END_SCRIPT,
    FOCUS_SCRIPT,
    INVITATION,
    NO_COLLECTION,
    NO_WORDS,
    OPENED_SCRIPT,
    OPENING,
    REFILTER_SCRIPT,
    SEARCH_STATUS,
    WHERE,
    draw_preparation,
)

Where = Sequence[str] | None  # chosen labels
EXAMPLES = ["umbrella", "guitar", "flower", "airplane", "moon", "fruit", "house", "tree"]
NO_FILTER = "The filter cannot be read"
POLL_SECONDS = 3  # between two looks for the first collection
RESULT_COUNTS = [12, 24, 48, 96]

# what a pick begins: a search, or a change of the details; a tag begins neither
SEARCHES, DETAILS = ("text", "near", "texts", "mix"), ("image", "label", "close")

SearchContext = tuple[list[str], int, PageQuery | None]  # labels, page size, current search
Turn = PageSelection[int]  # number of the newest search
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
    hybrid: Any = gr.skip()
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
            "image": lambda collection, item, _: {self.detail: self.runner.details(collection, item)},
            "text": self._images_of_text,
            "near": partial(self._neighbours, IMAGE_TO_IMAGES),
            "texts": partial(self._neighbours, IMAGE_TO_TEXTS),
            "mix": self._mix,
            "label": self._add_label,
            "tag": self._change_tags,
            "close": lambda *_: {self.detail: ""},
        }

    def build(self) -> None:
        self.bare = gr.State(None)  # does the pane wait for a first collection? None: not known yet
        self.found = gr.State(False)  # has the last tick found the first collection?
        self.seen = gr.Checkbox(True, visible=False)  # whether the tab is looked at (seen_script)
        self.current = gr.State(None)
        self.anchor = gr.State(None)
        self.turn = gr.State(PageSelection(0))  # number of the newest search
        self.opened = gr.State(PageSelection(0))  # number of the newest details
        self.number = gr.Number(visible=False)  # that of a search, which the browser gives it
        self.refiltered = gr.Number(0, visible=False)  # how often other labels were chosen
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
                # apart from the menu: Gradio puts neighbouring fields into one box
                self.hybrid = gr.Checkbox(True, label="Match captions too", min_width=150, elem_id="search-hybrid")
                with gr.Row(elem_classes="lcl-chips") as self.chips:
                    self.examples = [gr.Button(words, size="sm", min_width=0) for words in EXAMPLES]
                self.where = gr.Dropdown(
                    [], multiselect=True, label="Only images with", elem_id="search-where", visible=False, scale=2,
                    min_width=220, allow_custom_value=True,
                )  # fmt: skip
        self.cancelled = html_pane(js_on_load=CANCEL_SCRIPT)
        self.tagged = html_pane()
        html_pane(SEARCH_STATUS, elem_id="search-status")
        with gr.Row(equal_height=False, elem_classes="lcl-found"):
            self.results = html_pane(OPENING, js_on_load=PICK_SCRIPT, elem_id="search-results")
            self.detail = html_pane(js_on_load=PICK_SCRIPT, elem_id="search-detail")
        self.more = gr.Button("Show more", visible=False, elem_id="search-more", elem_classes="lcl-more")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        self.query_inputs = [self.text, self.frame, self.balance, self.chips, self.hybrid]
        self.result_outputs = [self.results, self.current, self.more]
        query = [
            self.mode, self.collection, self.text, self.image, self.words, self.where, self.k, self.hybrid, self.anchor,
        ]  # fmt: skip
        known = [self.collection, self.bare, self.where]
        opening = [self.image, self.anchor, self.collection]
        opened = [
            self.collection, self.mode, *self.query_inputs[:-1], self.image, self.anchor, self.hybrid, self.words,
            self.where, self.k, *self.result_outputs, self.detail,
        ]  # fmt: skip
        opens = page.load(self.refresh, known, [*known, self.results], **SILENT_EVENT)
        links = opens.then(self.open_link, [self.turn, *opening], opened, **SILENT_EVENT)
        opens.failure(None, js=OPENED_SCRIPT)
        run_after(links, OPENED_SCRIPT)
        # without a collection the page looks for one until it is there
        self.clock = gr.Timer(POLL_SECONDS)
        self.clock.tick(
            self.tick, [*known, self.seen], [*known, self.results, self.clock, self.found], js=seen_script("search"),
            **SILENT_EVENT,
        ).then(self.open_late_link, [self.found, self.turn, *opening], opened, **SILENT_EVENT)  # fmt: skip
        navigation.select(
            self.navigate, [self.turn, self.number, *opening], opened, js=NUMBER_SCRIPT, **SILENT_EVENT | LAST_COUNTS
        )
        tab.select(self.refresh, known, [*known, self.results], **SILENT_EVENT)
        # of searches under way at one time the newest is drawn: none is dropped while another waits for an encoder
        asked, several = [self.turn, self.number, *query], BUSY_EVENT | EACH_COUNTS | {"js": BEGIN_SCRIPT}
        search, search_again = newest(self.search), newest(self.search_again)
        uploaded = newest(lambda *query: (*self.search(*query[:-1]), None))  # the image of no collection
        begun = [
            self.mode.input(newest(self.switch), asked, [*self.query_inputs, *self.result_outputs], **several),
            gr.on([self.go.click, self.text.submit], newest(self.submit_query), asked, self.result_outputs, **several),
            self.image.upload(uploaded, asked, [*self.result_outputs, self.anchor], **several),
            gr.on([self.k.input, self.hybrid.input], search_again, asked, self.result_outputs, **several),
            self.refiltered.change(self.filter_again, [*asked, self.current], self.result_outputs, **several),
            self.collection.input(newest(self.change_collection), asked, [self.where, *self.result_outputs], **several),
        ]
        for button, words in zip(self.examples, EXAMPLES, strict=True):
            typed = button.click(lambda words=words: words, outputs=self.text, **SILENT_EVENT)
            begun.append(typed.then(search, asked, self.result_outputs, **several))
        for event in begun:
            run_after(event, END_SCRIPT)
        # not input: Gradio sends none when a value is typed or removed
        self.where.change(None, [self.where, self.refiltered], self.refiltered, js=REFILTER_SCRIPT)
        self._wire_results(search_again, asked)

    def _wire_results(self, search_again: Callable[..., Any], asked: list[Any]) -> None:
        """Events that change the search on show."""
        self.collection.input(None, self.collection, js=used_script("collection"))
        self.image.clear(lambda: None, None, self.anchor, **SILENT_EVENT)
        self.cancelled.select(self.cancel, self.turn, None, **SILENT_EVENT)
        self.words.change(search_again, asked, self.result_outputs, **BUSY_EVENT | LAST_COUNTS, js=NUMBER_SCRIPT)
        more = newest(self.show_more, begins=False)
        self.more.click(more, [self.turn, self.current], [*self.result_outputs, self.tagged], **BUSY_EVENT)
        shown = [
            self.mode, *self.query_inputs, self.image, self.anchor, self.where, *self.result_outputs, self.detail,
            self.tagged,
        ]  # fmt: skip
        picked = [self.turn, self.number, self.opened, self.where, self.k, self.current]
        for pane in (self.results, self.detail):
            pane.select(self.follow, picked, shown, js=NUMBER_SCRIPT, **BUSY_EVENT | EACH_COUNTS).then(
                None, js=FOCUS_SCRIPT
            )

    def refresh(
        self, current: str | None, bare: bool | None, where: Where = None, request: gr.Request | None = None
    ) -> tuple[Any, ...]:
        """Update the collections. Results that are shown stay."""
        try:
            choices = collection_choices(self.client)
        except ApiError as error:
            return gr.skip(), bare or not current, gr.skip(), gr.skip() if current else unreachable_box(error)
        if not choices:
            return update_dropdown([], None), True, gr.skip(), self.preparation()
        chosen = preferred_collection(choices, current, request)
        picker, labels = update_dropdown(choices, current, chosen), self.labels(chosen, where, where)[0]
        return picker, False, labels, INVITATION if bare else gr.skip()

    def tick(
        self, current: str | None, bare: bool | None, where: Where, seen: bool | None, request: gr.Request | None = None
    ) -> tuple[Any, ...]:
        """``poll``, which fetches nothing while another tab is looked at."""
        return self.poll(current, bare, where, request) if seen or not bare else (*(gr.skip(),) * 5, False)

    def poll(
        self, current: str | None, bare: bool | None, where: Where, request: gr.Request | None = None
    ) -> tuple[Any, ...]:
        """Update the collections until there is one. The last output: was it found now?"""
        if bare:
            updates = self.refresh(current, bare, where, request)
            return *updates, gr.skip(), updates[1] is False
        return *(gr.skip(),) * 4, gr.skip() if bare is None else gr.Timer(active=False), False

    def preparation(self) -> Any:
        """Without a collection: progress of the run that makes one, or how to; no change without an answer."""
        try:
            runs = self.client.runs(kind="index")["items"]
        except ApiError:
            return gr.skip()
        run = next((run for run in runs if run["state"] in ACTIVE_STATES), None)
        return NO_COLLECTION if run is None else draw_preparation(run)

    def labels(self, collection: str | None, where: Where, shown: Where = None) -> tuple[Any, list[str]]:
        """Labels of a collection as choices, and those of ``where`` that exist.

        The update leaves out a value that equals ``shown``: another may be chosen before the update arrives.
        """
        try:
            menu = self.runner.menu(str(collection))
        except ApiError:
            return gr.skip(), list(where or ())
        kept = menu.known(where or ())
        changed: dict[str, Any] = {} if kept == shown else {"value": kept}
        return (
            gr.update(
                choices=menu.choices,
                multiselect=True,
                allow_custom_value=True,
                visible=bool(menu.choices or menu.example),
                info=f"or type a condition, as {menu.example}, and press Enter" if menu.example else None,
                **changed,
            ),
            kept,
        )

    def open_link(
        self, turn: Turn, image: str | None, anchor: Anchor, request: gr.Request, current: str | None = None
    ) -> tuple[Any, ...]:
        """What the address of a new page says; a search that came first, or that begins meanwhile, stays."""
        given = read_address(request, "search").keys() - {"tab"}
        if not given or turn.current:
            return OpenedSearch()
        return newest(self.open_address, begins=False)(turn, image, anchor, request, current)

    def open_late_link(
        self,
        found: bool,
        turn: Turn,
        image: str | None,
        anchor: Anchor,
        request: gr.Request,
        current: str | None = None,
    ) -> tuple[Any, ...]:
        """``open_link`` for a page that was opened before the service answered."""
        return self.open_link(turn, image, anchor, request, current) if found else OpenedSearch()

    def navigate(
        self,
        turn: Turn,
        number: float,
        image: str | None,
        anchor: Anchor,
        request: gr.Request,
        current: str | None = None,
    ) -> tuple[Any, ...]:
        """``open_address`` as a search with a number."""
        return newest(self.open_address)(turn, number, image, anchor, request, current)

    def open_address(
        self, image: str | None, anchor: Anchor, request: gr.Request, current: str | None = None
    ) -> OpenedSearch:
        """Search and image of the address, else the empty page; an uploaded image is searched with again."""
        address = read_address(request, "search")
        mode = next((mode for mode, name in MODE_PARAMETERS.items() if name == address.get("mode", "")), MODES[0])
        name, item = address.get("collection", ""), address.get("item", "")
        try:
            collection = linked_collection(self.client, name, request)
        except ApiError:
            return OpenedSearch()  # refresh has reported it
        if collection is None:
            lost = error_box(f"There is no collection {name!r}.", "Not found")
            return OpenedSearch(results=lost if name else self.preparation(), current=None, detail="")
        text, like = address.get("q", "").strip(), address.get("like", "")
        uploaded = image if anchor is None and not like else None
        anchor = (collection, like) if like else None
        hybrid = address.get("captions") != "0"
        words, k = _number(address.get("words"), DEFAULT_WEIGHT), int(_number(address.get("k"), DEFAULT_COUNT))
        k = k if k in RESULT_COUNTS else DEFAULT_COUNT
        picker, where = self.labels(collection, filter_choices(address.get("where", "")))
        if mode == BOTH and like and not text:
            drawn = _result_updates(PageResult(draw_empty(BOTH, collection, like)))
        else:
            drawn = self.search(mode, collection, text, uploaded, words, where, k, hybrid, anchor)
        try:
            fetched = self._fetch_image(collection, like) if like else gr.skip() if uploaded else None
        except ApiError:
            fetched = None
        detail = self.runner.details(collection, item) if item else ""
        _, frame, balance, chips, _ = _query_visibility(mode)
        field = gr.Textbox(text, visible=mode in TEXT_MODES)
        box = gr.Checkbox(hybrid, visible=mode in TEXT_MODES)
        menu = select_choice(partial(collection_choices, self.client), current, collection)
        inputs = (menu, mode, field, frame, balance, chips, fetched, anchor, box, words, picker, k)
        results, query, more = drawn
        return OpenedSearch(*inputs, results, query, more, detail)

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
        hybrid: bool = False,
        anchor: Anchor = None,
    ) -> tuple[Any, ...]:
        """Results, or an error. An image of this collection (``anchor``) is searched with by its id."""
        query_text = text.strip() if mode in TEXT_MODES else ""
        item = anchor[1] if anchor and mode != TEXT_TO_IMAGES and collection in (None, anchor[0]) else None
        uploaded = image if mode != TEXT_TO_IMAGES and item is None else None
        if not (query_text or uploaded or item):
            return _result_updates(PageResult(draw_empty(mode)))
        query: dict[str, Any] = {"text": query_text} if query_text else {}
        query |= {"item": item} if item else {}
        try:
            query |= {"image": read_upload(uploaded)} if uploaded else {}
        except ApiError as error:
            return _result_updates(PageResult(error_box(error.message, "The search was refused")))
        if query_text and (uploaded or item):
            query["weights"] = {"text": words / 100, "item" if item else "image": 1 - abs(words) / 100}
        seen = "this image" if item and mode != BOTH else "your image" if item or uploaded else ""
        about = [*([seen] if seen else []), *([f"“{query_text}”"] if query_text else [])]
        target = "texts" if mode == IMAGE_TO_TEXTS else "images"
        away = mode == BOTH and words <= 0
        joined = (" away from " if words < 0 else " and ").join(about)
        if hybrid and query_text and not away:
            query["hybrid"] = True
            joined += ", by captions too"
        try:
            filters = parse_label_filter(where)
        except UserError as error:
            return _result_updates(PageResult(error_box(error.message, NO_FILTER)))
        return _result_updates(self.runner.run(collection, joined, target, k, filters, mode=mode, words=words, **query))

    def submit_query(self, mode: str, *query: Any) -> tuple[Any, ...]:
        """As ``search``; without words, what is missing."""
        result = self.search(mode, *query)
        missing = mode == TEXT_TO_IMAGES and result[0] == draw_empty(mode)
        return _result_updates(PageResult(NO_WORDS)) if missing else result

    def cancel(self, turn: Turn, event: gr.EventData) -> None:
        """No search that began before changes anything any more."""
        turn.current = max(turn.current, int(event.number))

    def search_again(self, mode: str, *query: Any) -> tuple[Any, ...]:
        """After a change of an option: search only if there is a query."""
        result = self.search(mode, *query)
        return result if result[0] != draw_empty(mode) else (gr.skip(),) * 3

    def filter_again(self, turn: Turn, number: float, *values: Any) -> tuple[Any, ...]:
        """The query with other labels, unless what is on show has these: labels of images and addresses draw it."""
        *query, current = values
        try:
            filters = parse_label_filter(query[WHERE])
        except UserError as error:
            problem = error_box(error.message, NO_FILTER)
            return newest(lambda: _result_updates(PageResult(problem)))(turn, number)
        if current is not None and current.where == filters:
            return (gr.skip(),) * 3
        return newest(self.search_again)(turn, number, *query)

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
        try:
            filters = parse_label_filter(where)
        except UserError as error:
            return error_box(error.message, NO_FILTER), gr.skip(), gr.skip()
        if current is None or current.where == filters:
            return (gr.skip(),) * 3
        return _result_updates(self.runner.filter(current, filters))

    def show_more(self, current: PageQuery | None) -> tuple[Any, ...]:
        """The hits with those of the next page, and a message: if it fails, the hits and the button stay."""
        if current is None:
            return (gr.skip(),) * 4
        try:
            return *_result_updates(self.runner.next_page(current)), gr.skip()
        except ApiError as error:
            return *(gr.skip(),) * 3, toast(error.message, "No more can be shown")

    def follow(
        self,
        turn: Turn,
        number: float,
        opened: PageSelection[int],
        where: list[str],
        k: int,
        current: PageQuery | None,
        event: gr.EventData,
    ) -> dict[Any, Any]:
        """Action of a button in the results or details; what something newer draws is left out."""
        kind, collection, value = (*str(event.pick).split(":", 2), "", "")[:3]
        search, details = turn.current, opened.current
        if kind in SEARCHES:
            search = int(number)
            turn.current = max(turn.current, search)
        if kind in (*SEARCHES, *DETAILS):
            details = int(number)
            opened.current = max(opened.current, details)
        try:
            changes = self.actions[kind](collection, value, (where, k, current))
        except (ApiError, UserError) as error:
            changes = {self.results: error_box(error.message)}
        if turn.current != search:
            kept = (self.where, self.tagged, self.detail)  # all else belongs to the search
            changes = {output: change for output, change in changes.items() if output in kept}
        if opened.current != details:
            changes.pop(self.detail, None)
        return changes or {self.tagged: gr.skip()}

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
        return self._new_search(BOTH, PageResult(draw_empty(BOTH, collection, item))) | asking

    def _add_label(self, _: str, choice: str, context: SearchContext) -> dict[Any, Any]:
        """Add a label to the filter of the current search."""
        where, _k, current = context
        labels = where if choice in where else [*where, choice]
        result = self.change_filter(labels, current)
        return {self.where: labels, **dict(zip(self.result_outputs, result, strict=True)), self.detail: ""}

    def _change_tags(self, collection: str, value: str, context: SearchContext) -> dict[Any, Any]:
        """Tags of one image, whose details are drawn again, or of the results."""
        change = parse_tag_change(value)
        said = self.runner.change_tags(collection, change)
        one = len(change.items) == 1
        detail = {self.detail: self.runner.details(collection, change.items[0])} if one else {}
        return {self.tagged: said, self.where: self.labels(collection, context[0], context[0])[0], **detail}

    def _new_search(self, mode: str, result: PageResult) -> dict[Any, Any]:
        """Inputs of the mode, and results."""
        inputs = zip(self.query_inputs, _query_visibility(mode), strict=True)
        outputs = zip(self.result_outputs, _result_updates(result), strict=True)
        words = gr.Checkbox(False, visible=mode in TEXT_MODES)  # a new search is one by vectors
        return {self.mode: mode, **dict(inputs), **dict(outputs), self.hybrid: words, self.detail: ""}

    def _image_input(self, collection: str, item: str) -> dict[Any, Any]:
        """An image of a collection as query. Raises: ApiError."""
        return {self.image: self._fetch_image(collection, item), self.anchor: (collection, item)}

    def _fetch_image(self, collection: str, item: str) -> str:
        """Raises: ApiError."""
        image = self.client.item_image(collection, item)
        try:
            return store_file(f"sample.{image_media_type(image).partition('/')[2]}", image)
        except UploadError as error:
            raise ApiError(error.status, "busy", str(error)) from error


def _query_visibility(mode: str) -> tuple[Any, Any, Any, Any, Any]:
    """Visibility of text, image, balance, examples and whether captions count."""
    words, image = mode in TEXT_MODES, mode != TEXT_TO_IMAGES
    return (
        gr.Textbox(visible=words), gr.Column(visible=image), gr.Column(visible=mode == BOTH),
        gr.Row(visible=mode == TEXT_TO_IMAGES), gr.Checkbox(visible=words),
    )  # fmt: skip


def _number(parameter: str | None, default: float) -> float:
    try:
        return min(100.0, max(-100.0, float(parameter or default)))
    except ValueError:
        return default


def _result_updates(result: PageResult) -> tuple[Any, ...]:
    """Results, search, and the button for more."""
    return result.html, result.query, gr.Button(visible=result.more)
