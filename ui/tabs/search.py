"""Search tab: words and an image as query; images or texts as result; details of one hit.

What is shown has an address; results are links, and every address is opened by one event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from api.client import ApiError, Client
from ui.addresses import read_address
from ui.common import (
    BUSY_EVENT,
    EACH_COUNTS,
    LAST_COUNTS,
    NUMBER_SCRIPT,
    SILENT_EVENT,
    PageSelection,
    html_pane,
    newest,
    parse_tag_change,
    run_after,
    seen_script,
    select_choice,
    unreachable_box,
    update_dropdown,
)
from ui.file_routes import image_media_type
from ui.html import ACTIVE_STATES, OPENING, PICK_SCRIPT, error_box, toast
from ui.ranking import collection_choices, linked_collection, preferred_collection, used_script
from ui.session_files import store_file
from ui.tabs.search_query import DEFAULT_MATCH, MATCHES, PageQuery, SearchRunner, ShownSearch
from ui.tabs.search_view import (
    BEGIN_SCRIPT,
    END_SCRIPT,
    FOCUS_SCRIPT,
    LABEL_SCRIPT,
    NO_COLLECTION,
    SEARCH_STATUS,
    draw_preparation,
)

POLL_SECONDS = 3  # between two looks for the first collection
Turn = PageSelection[int]  # number of the newest search
Current = ShownSearch | None
Box = dict[str, Any] | None  # text, and paths of files


class SearchPage(NamedTuple):
    """Updates of everything that a search changes."""

    collection: Any = gr.skip()
    box: Any = gr.skip()
    where: Any = gr.skip()
    match: Any = gr.skip()
    texts: Any = gr.skip()
    results: Any = gr.skip()
    current: Any = gr.skip()
    more: Any = gr.skip()
    detail: Any = gr.skip()


class SearchTab:
    title = "Search"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.runner = SearchRunner(client)

    def build(self) -> None:
        self.seen = gr.Checkbox(True, visible=False)  # whether the tab is looked at (seen_script)
        self.current = gr.State(None)
        self.turn = gr.State(PageSelection(0))
        self.number = gr.Number(visible=False)  # that of a search, which the browser gives it
        with gr.Column(elem_classes="lcl-search"):
            self.box = gr.MultimodalTextbox(
                label="Words or an image", show_label=False, placeholder="Describe an image, or drop one here",
                sources=["upload"], file_types=["image"], lines=1, max_lines=1, submit_btn="Search", container=False,
                elem_id="search-box",
            )  # fmt: skip
            self.box.preprocess = _box_value  # type: ignore[assignment, method-assign]
            with gr.Row(elem_classes="lcl-narrowing"):
                self.collection = gr.Dropdown(label="Collection", show_label=False, min_width=200)
                self.where = gr.Dropdown(
                    [], multiselect=True, label="Filter", show_label=False, allow_custom_value=True, min_width=200,
                    elem_id="search-where",
                )  # fmt: skip
                with gr.Accordion("More", open=False, elem_id="search-options"):
                    self.match = gr.Radio(MATCHES, value=DEFAULT_MATCH, label="Compare words with")
                    self.texts = gr.Checkbox(False, label="Show captions like the image, not images")
        html_pane(SEARCH_STATUS, elem_id="search-status")
        with gr.Row(equal_height=False, elem_classes="lcl-found"):
            self.results = html_pane(OPENING, js_on_load=PICK_SCRIPT, elem_id="search-results")
            self.detail = html_pane(js_on_load=PICK_SCRIPT, elem_id="search-detail")
        self.more = gr.Button("Show more", visible=False, elem_id="search-more", elem_classes="lcl-more")
        self.tagged = html_pane()

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        shown = [
            self.collection, self.box, self.where, self.match, self.texts, self.results, self.current, self.more,
            self.detail,
        ]  # fmt: skip
        # until there is a collection, the clock looks for one
        self.clock = gr.Timer(POLL_SECONDS)
        begins = [self.turn, self.current, self.collection, self.box]
        page.load(None, js=LABEL_SCRIPT)
        page.load(self.start, begins, [*shown, self.clock], **SILENT_EVENT)
        self.clock.tick(self.tick, [*begins, self.seen], [*shown, self.clock], js=seen_script("search"), **SILENT_EVENT)
        tab.select(self.refresh, self.collection, self.collection, **SILENT_EVENT)
        opens = [self.turn, self.number, self.current, self.collection, self.box]
        navigation.select(self.navigate, opens, shown, js=NUMBER_SCRIPT, **SILENT_EVENT | LAST_COUNTS).then(
            None, js=FOCUS_SCRIPT
        )
        # of searches under way at one time the newest is drawn: none is dropped while another waits for an encoder
        query = [self.collection, self.box, self.where, self.match, self.texts]
        asked, several = [self.turn, self.number, self.current, *query], BUSY_EVENT | EACH_COUNTS | {"js": BEGIN_SCRIPT}
        options = [self.collection.input, self.where.change, self.match.input, self.texts.input]
        for event in (
            self.box.submit(newest(self.search), asked, shown, **several),
            gr.on(options, newest(self.search_again), asked, shown, **several),
        ):
            run_after(event, END_SCRIPT)
        self.collection.input(None, self.collection, js=used_script("collection"))
        more = newest(self.show_more, begins=False)
        self.more.click(
            more, [self.turn, self.current], [self.results, self.current, self.more, self.tagged], **BUSY_EVENT
        )
        for pane in (self.results, self.detail):
            pane.select(self.change_tags, self.current, [self.where, self.detail, self.tagged], **BUSY_EVENT)

    def start(self, turn: Turn, current: Current, chosen: str | None, box: Box, request: gr.Request) -> tuple[Any, ...]:
        """What the address of a new page says; a search that came first, or that begins meanwhile, stays."""
        try:
            choices = collection_choices(self.client)
        except ApiError as error:
            return *SearchPage(results=unreachable_box(error)), gr.skip()
        if not choices:
            return *SearchPage(results=self.preparation()), gr.skip()
        if turn.current:
            return *SearchPage(), gr.Timer(active=False)
        opened = newest(self.open, begins=False)(turn, current, None, box, request)
        menu = opened[0]
        if menu == gr.skip():
            menu = update_dropdown(choices, chosen, preferred_collection(choices, chosen, request))
        return menu, *opened[1:], gr.Timer(active=False)

    def tick(
        self, turn: Turn, current: Current, chosen: str | None, box: Box, seen: bool | None, request: gr.Request
    ) -> tuple[Any, ...]:
        """``start`` again, while the tab is looked at and there is no collection."""
        if not seen or chosen:
            return *SearchPage(), gr.Timer(active=False) if chosen else gr.skip()
        return self.start(turn, current, chosen, box, request)

    def refresh(self, chosen: str | None) -> Any:
        """The collections that there are now. What is shown stays."""
        try:
            return update_dropdown(collection_choices(self.client), chosen)
        except ApiError:
            return gr.skip()

    def preparation(self) -> Any:
        """Without a collection: progress of the run that makes one, or how to; no change without an answer."""
        try:
            runs = self.client.runs(kind="index")["items"]
        except ApiError:
            return gr.skip()
        run = next((run for run in runs if run["state"] in ACTIVE_STATES), None)
        return NO_COLLECTION if run is None else draw_preparation(run)

    def navigate(
        self, turn: Turn, number: float, current: Current, chosen: str | None, box: Box, request: gr.Request
    ) -> tuple[Any, ...]:
        """``open`` as a search with a number."""
        return newest(self.open)(turn, number, current, chosen, box, request)

    def open(self, current: Current, chosen: str | None, box: Box, request: gr.Request) -> SearchPage:
        """Search and image of the address. Another image beside the same hits draws these no more."""
        address = read_address(request, "search")
        name = address.get("collection", "")
        try:
            collection = linked_collection(self.client, name, request)
        except ApiError as error:
            return SearchPage(results=unreachable_box(error))
        if collection is None:
            lost = error_box(f"There is no collection {name!r}.", "Not found")
            return SearchPage(results=lost if name else self.preparation(), current=None, detail="")
        query = PageQuery.of_address(collection, address, current.query.image if current else _image(box))
        item = address.get("item", "")
        if current is not None and current.query == query:
            return SearchPage(detail=self.runner.details(collection, item, shown=current) if item else "")
        shown = self.runner.run(query)
        detail = self.runner.details(collection, item, shown=shown) if item else ""
        file = query.image or (self._fetch_image(collection, query.like) if query.like else "")
        shown = replace(shown, file=file)
        value = {"text": query.words, "files": [file] if file else []}
        where = gr.update(choices=self._choices(collection), value=list(query.where))
        picker = select_choice(partial(collection_choices, self.client), chosen, collection)
        fields = (picker, value, where, query.match, query.texts)
        return SearchPage(*fields, shown.html, shown, gr.Button(visible=shown.more), detail)

    def search(
        self,
        current: Current,
        collection: str | None,
        box: Box,
        where: Sequence[str] | None,
        match: str,
        texts: bool,
    ) -> SearchPage:
        """The hits; an image that came from the collection is searched with by its id."""
        try:
            collection = collection or linked_collection(self.client, "", None)
        except ApiError as error:
            return SearchPage(results=unreachable_box(error))
        if collection is None:
            return SearchPage(results=self.preparation())
        image, words = _image(box), str((box or {}).get("text") or "").strip()
        like = ""
        if current and image and image == current.file and collection == current.query.collection:
            like = current.query.like
        kept, menu = tuple(where or ()), gr.skip()
        if current is None or current.query.collection != collection:
            choices = self._choices(collection)
            kept = tuple(value for value in kept if value in [offered for _, offered in choices])
            menu = gr.update(choices=choices, value=list(kept))
        query = PageQuery(collection, words, like, "" if like else image, kept, match, bool(texts))
        shown = replace(self.runner.run(query), file=image)
        more = gr.Button(visible=shown.more)
        return SearchPage(where=menu, results=shown.html, current=shown, more=more, detail="")

    def search_again(self, current: Current, *query: Any) -> SearchPage:
        """After a change of an option; addresses set options, too, and what they show is there."""
        collection, _, where, match, texts = query
        if current is not None:
            before = current.query
            now = (collection, tuple(where or ()), match, bool(texts))
            if now == (before.collection, before.where, before.match, before.texts):
                return SearchPage()
        return self.search(current, *query)

    def show_more(self, current: Current) -> tuple[Any, ...]:
        """The hits with those of the next page, and a message: if it fails, the hits and the button stay."""
        if current is None:
            return (gr.skip(),) * 4
        try:
            shown = self.runner.run(current.query, current)
        except ApiError as error:
            return *(gr.skip(),) * 3, toast(error.message, "No more can be shown")
        return shown.html, shown, gr.Button(visible=shown.more), gr.skip()

    def change_tags(self, current: Current, event: gr.EventData) -> tuple[Any, ...]:
        """Tags of one image, whose details are drawn again, or of the results."""
        kind, collection, value = (*str(event.pick).split(":", 2), "", "")[:3]
        if kind != "tag":
            return (gr.skip(),) * 3
        change = parse_tag_change(value)
        said = self.runner.change_tags(collection, change)
        detail = (
            self.runner.details(collection, change.items[0], shown=current) if len(change.items) == 1 else gr.skip()
        )
        return gr.update(choices=self._choices(collection)), detail, said

    def _choices(self, collection: str) -> list[tuple[str, str]]:
        """What a search can be filtered by; nothing without an answer."""
        try:
            return self.runner.menu(collection)
        except ApiError:
            return []

    def _fetch_image(self, collection: str, item: str) -> str:
        """Path of an image of a collection, for the box; empty if it cannot be had."""
        try:
            image = self.client.item_image(collection, item)
            return store_file(f"image.{image_media_type(image).partition('/')[2]}", image)
        except ApiError:
            return ""


def _box_value(payload: Any) -> Box:
    """As ``preprocess`` of the box: the service reports files that are no image."""
    return {"text": payload.text, "files": [file.path for file in payload.files]} if payload else None


def _image(box: Box) -> str:
    return str(next(iter((box or {}).get("files") or ()), ""))
