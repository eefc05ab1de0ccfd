"""Map tab: the images of a collection on a plane, drawn by ``map.js``; the details of one of them beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import gradio as gr

from api.client import ApiError, Client
from ui.addresses import address, mark_view, read_address
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
)
from ui.file_routes import FORMATS
from ui.html import OPENING, PICK_SCRIPT, empty_state, error_box, esc
from ui.ranking import collection_choices, preferred_collection
from ui.tabs.search_query import SearchRunner

NO_COLLECTION = empty_state("No collection yet", "Submit an index run in the Runs tab to see its images on a plane.")
NO_IMAGE = empty_state("Nothing to see yet", "The collection has no image.")
# After the details of an image are opened or closed (map.js).
FOCUS_SCRIPT = "() => requestAnimationFrame(() => setTimeout(() => window.lclMap.focus(), 30))"
LASSO_ICON = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M8 15.5C4.5 14 3 12 3 9.5 3 6 7 3.5 12 3.5s9 2.5 9 6-4 6-9 '
    '6c-1 0-2-.1-3-.3M8 15.5c1.5-.5 2.5.8 1.5 2S7 19 7 21"/></svg>'
)
TOOLS = (
    *(("in", "Zoom in", "+"), ("out", "Zoom out", "−"), ("whole", "Show the whole map", "⤢")),
    ("lasso", "Select with a lasso", LASSO_ICON),
)
HINT = (
    "Drag to move, wheel or pinch to zoom, Shift and drag to select, click to look at an image. Arrow keys go to the "
    "nearest image, Page Up and Page Down to the one before or after, Shift and arrows move the map, + and − zoom, "
    "0 shows all, Enter opens, Space selects, A selects what is on show, Escape clears."
)


class MapTab:
    title = "Map"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.runner = SearchRunner(client)

    def build(self) -> None:
        self.opened = gr.State(PageSelection(0))  # number of the newest press that opened something
        self.number = gr.Number(visible=False)  # that of a press, which the browser gives it
        self.collection = gr.State(None)  # that is shown
        with gr.Row(elem_classes="lcl-panel lcl-map-row"):
            self.map = html_pane(OPENING, elem_id="map", js_on_load=PICK_SCRIPT)
            self.detail = html_pane(elem_id="map-detail", js_on_load=PICK_SCRIPT)
        self.tagged = html_pane()

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        press: list[Any] = [self.opened, self.number]
        for event in (tab.select, navigation.select):
            event(
                self.open, [*press, self.collection], [self.collection, self.map, self.detail],
                js=NUMBER_SCRIPT, **SILENT_EVENT | LAST_COUNTS,
            )  # fmt: skip
        for pane in (self.map, self.detail):
            pane.select(
                self.follow, press, [self.detail, self.tagged], js=NUMBER_SCRIPT, **BUSY_EVENT | EACH_COUNTS
            ).then(None, js=FOCUS_SCRIPT)

    def open(
        self, opened: PageSelection[int], number: float, shown: str | None, request: gr.Request
    ) -> tuple[Any, Any, Any]:
        """The collection of the address, its map, and the details of an image.

        Without an address the map on show stays, also if the service cannot be reached; the first one is that of the
        collection used last. ``number``: of the press; ``shown``: id of the collection on show.
        """
        asked = read_address(request, "map")
        name, item = asked.get("collection"), asked.get("item")
        try:
            choices = collection_choices(self.client)
            chosen = name or preferred_collection(choices, shown, request)
            if chosen is None:
                return None, NO_COLLECTION, ""
            if chosen == shown and not name:
                return (gr.skip(),) * 3
            found = self.client.collection(chosen)
        except ApiError as error:
            if error.status == 404:
                return None, error_box(f"There is no collection {name!r}.", "Not found"), ""
            if shown is not None and name in (None, shown):
                return (gr.skip(),) * 3
            names = ("collection", "item", "colour", "arrange", "at")
            kept = {each: asked[each] for each in names if each in asked}
            return None, mark_view(unreachable_box(error, reopens=True), **kept), ""
        opened.current = max(opened.current, int(number))
        detail = self.runner.details(found["id"], item, searches=False) if item else ""
        return found["id"], draw_map(choices, found, asked.get("arrange")), detail

    def follow(self, opened: PageSelection[int], number: float, event: gr.EventData) -> tuple[Any, Any]:
        """Details of an image of the map, or none; a change of tags, after which details of one image are drawn again.

        Details that were opened before others are not drawn. The map stays as it is: labels of another version of the
        collection come with another choice or a reload.
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


def draw_map(choices: Sequence[tuple[str, str]], found: Mapping[str, Any], arrange: str | None = None) -> str:
    """What ``map.js`` draws the map into. Another version of the collection has another address of the map's file."""
    collection, arrange = str(found["id"]), "pca" if arrange == "pca" else None
    version = quote(f"{collection}-{found['changes']}", safe="")
    source = f"map/{quote(collection, safe='')}?version={version}&method={arrange or 'tsne'}" if found["images"] else ""
    options = "".join(
        f'<option value="{esc(address(tab="map", collection=each))}"{" selected" * (each == collection)}>{esc(name)}'
        for name, each in choices
    )
    other = address(tab="map", collection=collection, arrange=None if arrange else "pca")
    files = " ".join(f'<a href="vectors/{esc(collection)}.{kind}" download>.{kind}</a>' for kind in FORMATS)
    tools = "".join(
        f'<button type="button" data-tool="{tool}" title="{words}" aria-label="{words}">{sign}</button>'
        for tool, words, sign in TOOLS
    )
    stage = (
        '<div class="lcl-map__main"><div class="lcl-map__stage">'
        '<canvas tabindex="0" role="application" aria-label="Map" aria-describedby="map-hint"></canvas>'
        f'<div class="lcl-map__tools" role="group" aria-label="Tools of the map">{tools}</div>'
        '<div class="lcl-tip" hidden></div></div>'
        '<p class="lcl-note lcl-map__facts" role="status">Loading the map …</p></div>'
        '<ul class="lcl-legend" aria-label="Labels; choose one to bring it out"></ul>'
        f'<div class="lcl-map__chosen" hidden></div><div hidden>{draw_tag_form(collection, [])}</div>'
    )
    drawn = (
        f'<div class="lcl-map" data-source="{esc(source)}" data-collection="{esc(collection)}">'
        f'<div class="lcl-map__bar"><label>Collection <select class="lcl-map__collection">{options}</select></label>'
        '<label>Colour <select class="lcl-map__colour"></select></label>'
        f'<details><summary>More ▾</summary><div><p>Arrange by <a href="{esc(other)}">'
        f"{'neighbours' if arrange else 'principal axes'}</a></p>"
        f'<p>Download vectors {files}</p><p class="lcl-note" id="map-hint">{HINT}</p></div></details></div>'
        f"{stage if found['images'] else NO_IMAGE}"
        '<p class="lcl-map__said" aria-live="polite"></p>'
        '<span class="lcl-map__at" data-view="{}" hidden></span>'
        '<button type="button" class="lcl-map__pick" hidden></button></div>'
    )
    return mark_view(drawn, collection=collection, arrange=arrange)
