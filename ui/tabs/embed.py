"""Embed tab: the vectors of a collection as a 2-D map, and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import gradio as gr

from api.client import ApiError, Client
from ui.addresses import mark_view, read_address
from ui.common import (
    BUSY_EVENT,
    EACH_COUNTS,
    LAST_COUNTS,
    NUMBER_SCRIPT,
    SILENT_EVENT,
    PageSelection,
    draw_tag_form,
    html_pane,
    parse_tag_change,
    unreachable_box,
    update_dropdown,
)
from ui.file_routes import FORMATS
from ui.html import PICK_SCRIPT, empty_state, error_box, esc, heading
from ui.ranking import collection_choices, preferred_collection, used_script
from ui.tabs.search_query import MAX_LABEL_VALUES, SearchRunner

NO_COLLECTION = empty_state("No collection yet", "Submit an index run in the Runs tab to see its images on a plane.")
ARRANGEMENTS = [("Variance", "pca"), ("Neighbours", "tsne")]
COMPUTING = {
    "pca": "Computing the map …",
    "tsne": "Arranging the images by their neighbours: ten seconds for some thousands …",
}
PREFERRED = ("group", "category", "subgroup")  # labels with few values
# After the details of an image are opened or closed (map.js).
FOCUS_SCRIPT = "() => requestAnimationFrame(() => setTimeout(() => window.lclMap.focus(), 30))"
LASSO_ICON = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M8 15.5C4.5 14 3 12 3 9.5 3 6 7 3.5 12 3.5s9 2.5 9 6-4 6-9 '
    '6c-1 0-2-.1-3-.3M8 15.5c1.5-.5 2.5.8 1.5 2S7 19 7 21"/></svg>'
)
TOOLS = (
    ("in", "Zoom in", "+"),
    ("out", "Zoom out", "−"),
    ("whole", "Show the whole map", "⤢"),
    ("lasso", "Select with a lasso", LASSO_ICON),
    ("visible", "Select what is on show", "▣"),
)
MAP_HINT = (
    "Drag to move, wheel or pinch to zoom, Shift and drag to select, click to look at an image. With keys: arrows go "
    "to the nearest image in their direction, Page Up and Page Down to the one before or after, Shift and arrows move "
    "the map, + and − zoom, 0 shows all, Enter opens, Space selects, Escape clears."
)
PRESSABLE = ' class="lcl-map__lasso" aria-pressed="false"'


class EmbedTab:
    title = "Embed"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.runner = SearchRunner(client)

    def build(self) -> None:
        self.opened = gr.State(PageSelection(0))  # number of the newest details
        self.number = gr.Number(visible=False)  # that of a press, which the browser gives it
        with gr.Column(elem_classes="lcl-panel"):
            html_pane(
                heading(
                    "Map of a collection",
                    "Its vectors on a plane, by their principal axes or their neighbours; the line below says how much "
                    "of them that keeps.",
                )
            )
            with gr.Row(elem_classes="lcl-toolbar"):
                self.collection = gr.Dropdown(label="Collection", scale=2, min_width=200)
                self.label = gr.Dropdown(label="Colour by", scale=1, min_width=140)
                self.method = gr.Radio(
                    ARRANGEMENTS, value="pca", label="Arrange by", elem_classes="lcl-segment", scale=1, min_width=200
                )
                self.links = html_pane(elem_classes="lcl-links")
            with gr.Row(elem_classes="lcl-found"):
                self.map = html_pane(elem_id="map", js_on_load=PICK_SCRIPT)
                self.detail = html_pane(elem_id="map-detail", js_on_load=PICK_SCRIPT)
            self.tagged = html_pane()

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        drawn = [self.label, self.method, self.links, self.map]
        opened = [self.collection, *drawn, self.detail]
        choices = [self.collection, self.label, self.method]
        # one event, since a second one that draws the map could overtake it
        tab.select(self.open, self.collection, opened, **SILENT_EVENT)
        navigation.select(self.navigate, self.collection, opened, **SILENT_EVENT | LAST_COUNTS)
        self.collection.input(None, self.collection, js=used_script("collection"))
        press: dict[str, Any] = {"inputs": [self.opened, self.number], "js": NUMBER_SCRIPT}
        self.collection.input(self.close, outputs=self.detail, **press, **SILENT_EVENT)
        self.collection.input(self.load_map, choices, drawn, **BUSY_EVENT | LAST_COUNTS)
        gr.on(
            [self.label.input, self.method.input],
            self.draw_map, choices, self.map, **SILENT_EVENT | LAST_COUNTS,
        )  # fmt: skip
        for pane in (self.map, self.detail):
            pane.select(self.follow, outputs=[self.detail, self.tagged], **press, **BUSY_EVENT | EACH_COUNTS).then(
                None, js=FOCUS_SCRIPT
            )

    def open(self, collection: str | None, request: gr.Request) -> tuple[Any, ...]:
        """The collections, with the map of the one of the address, else of the one used last.

        Without an address a map that is shown stays, also if the service cannot be reached.
        """
        address = read_address(request, "embed")
        try:
            collections = collection_choices(self.client)
        except ApiError as error:
            stays = collection is not None and address.get("collection", collection) == collection
            problem = gr.skip() if stays else _mark_address(unreachable_box(error, reopens=True), address)
            return *(gr.skip(),) * 4, problem, gr.skip()
        if address.get("collection"):
            addressed, *drawn = self.open_address(request)
            picker = gr.update(choices=collections, interactive=bool(collections))
            return picker | ({} if addressed == gr.skip() else {"value": addressed}), *drawn
        chosen = preferred_collection(collections, collection, request)
        picker = update_dropdown(collections, collection, chosen)
        if chosen is not None and chosen == collection:
            return picker, *(gr.skip(),) * 5
        return picker, *self.load_map(chosen, address.get("colour"), address.get("arrange")), gr.skip()

    def navigate(self, collection: str | None, request: gr.Request) -> tuple[Any, ...]:
        """As ``open_address``; as ``open`` where no opening has succeeded yet, or the menu may lack the collection."""
        other = read_address(request, "embed").get("collection", collection) != collection
        if collection is None or other:
            return self.open(collection, request)
        return self.open_address(request)

    def open_address(self, request: gr.Request) -> tuple[Any, ...]:
        """The collection of the address, its map, and the details of an image.

        No collection is chosen if there is none of this name: the next opening draws the map of another one.
        """
        address = read_address(request, "embed")
        if not (name := address.get("collection")):
            return (gr.skip(),) * 6
        try:
            collection = str(self.client.collection(name)["id"])  # the address may have its name
        except ApiError as error:
            if error.status == 404:
                lost = error_box(f"There is no collection {name!r}.", "Not found")
                return None, gr.skip(), gr.skip(), "", lost, ""
            problem = _mark_address(unreachable_box(error, reopens=True), address)
            return gr.skip(), gr.skip(), gr.skip(), "", problem, ""
        item = address.get("item")
        detail = self.runner.details(collection, item, searches=False) if item else ""
        return collection, *self.load_map(collection, address.get("colour"), address.get("arrange")), detail

    def load_map(self, collection: str | None, label: str | None, method: str | None = None) -> tuple[Any, ...]:
        """Labels of a collection, links to its vectors, and its map in the colours of ``label``.

        An error has the address of the map, so that the next opening tries again.
        """
        method = method if method in COMPUTING else "pca"
        if not collection:
            return update_dropdown([], None), method, "", NO_COLLECTION
        try:
            found = self.client.collection(collection)
        except ApiError as error:
            problem = error_box(error.message, "The map cannot be shown", reopens=True)
            return gr.skip(), gr.skip(), "", _mark(problem, collection, label, method)
        labels = sorted(name for name, values in found["labels"].items() if len(values) <= MAX_LABEL_VALUES)
        preferred = next((name for name in PREFERRED if name in labels), labels[0] if labels else None)
        chosen = label if label in labels else preferred
        picker = update_dropdown([(name, name) for name in labels], None, chosen)
        files = "".join(f'<a href="vectors/{esc(collection)}.{kind}" download>.{kind}</a>' for kind in FORMATS)
        return picker, method, f"<span>All vectors</span>{files}", draw_map(collection, chosen, found, method)

    def draw_map(self, collection: str | None, label: str | None, method: str | None) -> str:
        """The map in the colours of another label, or arranged by another method."""
        return str(self.load_map(collection, label, method)[-1])

    def close(self, opened: PageSelection[int], number: float) -> str:
        """No details of an image of another collection."""
        opened.current = max(opened.current, int(number))
        return ""

    def follow(self, opened: PageSelection[int], number: float, event: gr.EventData) -> tuple[Any, Any]:
        """Details of an image of the map, or none; a change of tags, after which details of one image are drawn again.

        Details that were opened before others are not drawn. The map stays as it is: labels of another version of the
        collection come with another choice or a reload.

        Args:
            number: of the press, which the browser gives it.
        """
        kind, collection, value = (*str(event.pick).split(":", 2), "", "")[:3]
        if kind != "tag":
            mine = int(number)
            opened.current = max(opened.current, mine)
            drawn = self.runner.details(collection, value, searches=False) if kind == "image" else ""
            return (drawn, "") if opened.current == mine else (gr.skip(), gr.skip())
        shown = opened.current
        change = parse_tag_change(value)
        said = self.runner.change_tags(collection, change)
        one = len(change.items) == 1
        detail = self.runner.details(collection, change.items[0], searches=False) if one else gr.skip()
        return detail if opened.current == shown else gr.skip(), said


def draw_map(collection: str, label: str | None, found: Mapping[str, Any], method: str = "pca") -> str:
    """What ``map.js`` draws the map into. Another version of the collection has another address of the map's file."""
    if not found["images"]:
        return empty_state("Nothing to see yet", "The collection has no image.")
    version = quote(f"{found['id']}-{found['changes']}", safe="")
    source = f"map/{quote(collection, safe='')}?version={version}&method={method}"
    buttons = "".join(
        f'<button type="button" data-tool="{tool}" title="{words}" aria-label="{words}"'
        f"{PRESSABLE if tool == 'lasso' else ''}>{sign}</button>"
        for tool, words, sign in TOOLS
    )
    drawn = (
        f'<div class="lcl-map" data-source="{esc(source)}" data-collection="{esc(collection)}" '
        f'data-label="{esc(label or "")}"><p class="lcl-note lcl-map__facts" role="status">{COMPUTING[method]}</p>'
        '<div class="lcl-map__stage">'
        '<canvas tabindex="0" role="application" aria-label="Map" aria-describedby="map-hint"></canvas>'
        f'<div class="lcl-map__tools" role="group" aria-label="Tools of the map">{buttons}</div>'
        '<div class="lcl-tip" hidden></div></div>'
        '<div class="lcl-map__side"><ul class="lcl-legend" aria-label="Labels; choose one to bring it out"></ul>'
        f'<div class="lcl-map__chosen" hidden></div><div hidden>{draw_tag_form(collection, [])}</div></div>'
        '<p class="lcl-map__said" aria-live="polite"></p>'
        f'<p class="lcl-note lcl-map__hint" id="map-hint">{MAP_HINT}</p>'
        '<span class="lcl-map__at" data-view="{}" hidden></span>'
        '<button type="button" class="lcl-map__pick" hidden></button></div>'
    )
    return _mark(drawn, collection, label, method)


def _mark(html: str, collection: str, label: str | None, method: str) -> str:
    return mark_view(html, collection=collection, colour=label, arrange=None if method == "pca" else method)


def _mark_address(html: str, address: Mapping[str, str]) -> str:
    """``html`` in place of what the address shows."""
    names = ("collection", "item", "colour", "arrange", "at")
    return mark_view(html, "", **{name: address.get(name) for name in names})
