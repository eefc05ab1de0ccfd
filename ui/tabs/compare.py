"""Compare tab: the same query to two encoders side by side, and the metrics that both have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import Json
from ui.addresses import mark_view, read_address
from ui.common import (
    BUSY_EVENT,
    EACH_COUNTS,
    LAST_COUNTS,
    SILENT_EVENT,
    PageSelection,
    api_error_box,
    html_pane,
    image_input,
    read_upload,
    unreachable_box,
    update_dropdown,
)
from ui.html import PICK_SCRIPT, empty_state, error_box, esc, heading, html_table, item_url
from ui.ranking import SAMPLE_DATASET, RankedEncoder, rank_encoders

FIGURE_KEY = ("task", "split", "variant", "transfer", "metric")
TOO_FEW_ENCODERS = empty_state(
    "Two encoders are needed",
    "Train another one in the Runs tab (other data, another method, another seed), or import one with "
    "“lcl encoders import”; then both answer the same query here, side by side.",
)
SAME_ENCODER = empty_state("The same encoder twice", "Choose another one on one of the sides.")
INVITATION = empty_state("Ask both", "Type a few words, pick an example, or choose an image: both encoders answer.")
NO_QUERY = empty_state("Type a few words first", "Or pick an example, or choose an image.")
NO_TEXTS = error_box("This encoder reads images alone. Ask both with an image.", "The search was refused")
WORDS, IMAGE = "Words", "Image"
EXAMPLES = ["dog", "red apple", "airplane", "tree", "musical instrument"]
HITS_PER_SIDE = 12
SIDES = ("left", "right")  # parameters of an address
Sides = tuple[Json, Json]


def no_collection(missing: Sequence[Json], dataset: str) -> str:
    """Names the encoders without a collection of the dataset, and the command that makes one."""
    commands = "".join(
        f"<code>lcl submit index --set encoder={esc(each['id'])} --set dataset={esc(dataset)} "
        f"--set collection={esc(dataset)}-{esc(each['name'])}</code>"
        for each in missing
    )
    names = " and ".join(f"<b>{esc(each['name'])}</b>" for each in missing)
    return (
        '<div class="lcl-empty" role="status"><strong>A collection is missing</strong>'
        f"<p>Both encoders need a collection of the same dataset, and {names} has none of {esc(dataset)}. "
        "An index run makes it: in the Runs tab, “New run”, kind Index; or in a terminal:</p>"
        f'<p class="lcl-commands">{commands}</p></div>'
    )


def draw_sides(encoders: Sequence[Json], collections: Sequence[str], answers: Sequence[Any], about: str) -> str:
    """Hits of both encoders, each with its rank on the other side.

    Args:
        answers: for each side its hits, or an error as HTML.
    """
    ranks = [
        {hit["id"]: rank for rank, hit in enumerate(hits, start=1)} if not isinstance(hits, str) else {}
        for hits in answers
    ]
    shared = len(ranks[0].keys() & ranks[1].keys())
    most = max(map(len, ranks))
    columns = "".join(
        _side(encoders[side], collections[side], answers[side], ranks[1 - side], encoders[1 - side]["name"])
        for side in (0, 1)
    )
    return (
        f'<section class="lcl-results" aria-label="Results of both"><p class="lcl-results__head" role="status">'
        f"<b>{shared} of {most}</b> found by both for {esc(about)}</p>"
        f'<div class="lcl-sides">{columns}</div></section>'
    )


def draw_figures(encoders: Sequence[Json], rows: Sequence[Json], figures: Sequence[Sequence[Json]]) -> str:
    """One row for each metric that both have: the values and their difference, with intervals.

    Args:
        rows: of the service's comparison.
        figures: for each encoder all rows of its evaluations, for their intervals.
    """
    names = [esc(each["name"]) for each in encoders]
    if not rows:
        return empty_state(
            "No figures in common",
            "Examine both with the same evaluate run (Runs tab, kind Evaluate): same task, split and dataset.",
        )
    known = [{(row.get("run_id"), *(row.get(name) for name in FIGURE_KEY)): row for row in side} for side in figures]
    columns = ("figure", "of", *(encoder["name"] for encoder in encoders), "difference", "p", "chance")
    body = "".join(_figure_row(row, known) for row in rows)
    return html_table("Figures of both", columns, body, "compare") + (
        f'<p class="lcl-note">In brackets 95 % intervals: of each value over the images, and of the difference '
        f"({names[1]} minus {names[0]}) over the same images for both. p: sign flips, two-sided, of this row alone. "
        "Bold: the better one, where the interval of the difference does not hold 0.</p>"
    )


def _side(encoder: Json, collection: str, hits: Any, others: Mapping[str, int], other: str) -> str:
    inside = hits if isinstance(hits, str) else _cards(collection, hits, others, other)
    return f'<section aria-label="{esc(encoder["name"])}"><h3>{esc(encoder["name"])}</h3>{inside}</section>'


def _cards(collection: str, hits: Sequence[Json], others: Mapping[str, int], other: str) -> str:
    cards = "".join(_card(collection, hit, rank, others.get(hit["id"]), other) for rank, hit in enumerate(hits, 1))
    return f'<ol class="lcl-grid lcl-grid--small">{cards}</ol>'


def _card(collection: str, hit: Json, rank: int, other_rank: int | None, other: str) -> str:
    words = hit.get("caption") or hit["id"]
    shared = "" if other_rank is None else f'<em class="lcl-both">both · {other_rank}. there</em>'
    also = "" if other_rank is None else f", place {other_rank} of {other}"
    name = f"{words}, place {rank}{also}. Ask both with this image"
    return (
        f'<li><button type="button" class="lcl-card{"" if other_rank is None else " lcl-card--both"}" '
        f'data-pick="item:{esc(hit["id"])}" title="Ask both with this image" aria-label="{esc(name)}">'
        f'<img src="{esc(item_url(collection, hit["id"]))}" alt="" loading="lazy" decoding="async">'
        f'<span class="lcl-card__words">{rank}. {esc(words)}</span>{shared}</button></li>'
    )


def _figure_row(row: Json, known: Sequence[Mapping[Any, Json]]) -> str:
    key = tuple(row.get(name) for name in FIGURE_KEY)
    bounds: Sequence[float] | None = row.get("interval")
    higher, lower = ("left", "right") if row["metric"].endswith("rank") else ("right", "left")  # lower ranks are better
    better = None if bounds is None else higher if bounds[0] > 0 else lower if bounds[1] < 0 else None
    cells = []
    for side, rows in zip(("left", "right"), known, strict=True):
        figure = rows.get((row.get(f"{side}_run"), *key), {})
        value = _format_value(row.get(side))
        strong = f"<b>{value}</b>" if side == better else value
        cells.append(f"<td>{strong}{_interval(figure.get('interval'))}</td>")
    p = row.get("p")
    p_text = "" if p is None else "&lt; .001" if p < 0.001 else f"{p:.3f}"
    words = " · ".join(esc(row[key]) for key in ("task", "transfer") if row.get(key))
    return (
        f'<tr><th scope="row">{esc(row["metric"])}</th><td>{words}<small>{esc(row.get("variant") or "")} · '
        f"{esc(row.get('split') or '')}</small></td>{''.join(cells)}"
        f"<td>{_format_difference(row.get('difference'))}{_interval(bounds)}{_reason(row)}</td>"
        f"<td>{p_text}</td><td>{_format_value(row.get('chance'))}</td></tr>"
    )


def _reason(row: Json) -> str:
    return f"<small>{esc(row['reason'])}</small>" if row.get("reason") else ""


def _interval(bounds: Sequence[float] | None) -> str:
    return f"<small>[{_format_value(bounds[0])}, {_format_value(bounds[1])}]</small>" if bounds else ""


def _format_value(value: float | None) -> str:
    """Three digits for shares, one for ranks."""
    if value is None:
        return ""
    return (f"{value:.3f}" if abs(value) < 2 else f"{value:.1f}").replace("-", "−")


def _format_difference(value: float | None) -> str:
    return "" if value is None else ("+" if value > 0 else "") + _format_value(value)


class CompareTab:
    title = "Compare"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.bare = gr.State(False)  # does the pane show a placeholder?
        self.turn, self.figures_turn = gr.State(PageSelection(0)), gr.State(PageSelection(0))  # of the newest drawing
        with gr.Column(elem_classes="lcl-panel"):
            title = heading("Compare two encoders", "The same query to both, in collections of the same dataset.")
            html_pane(title)
            with gr.Row(elem_classes="lcl-toolbar"):
                self.left = gr.Dropdown(label="Encoder on the left", scale=2, min_width=180)
                self.right = gr.Dropdown(label="Encoder on the right", scale=2, min_width=180)
                self.dataset = gr.Dropdown(label="Dataset", scale=1, min_width=140)
            with gr.Row(elem_classes="lcl-query"):
                self.mode = gr.Radio(
                    [WORDS, IMAGE], value=WORDS, label="Query type", show_label=False, elem_classes="lcl-segment",
                    scale=0, min_width=190,
                )  # fmt: skip
                self.text = gr.Textbox(
                    "", label="Words", show_label=False, placeholder="What should both look for?", max_lines=1, scale=6
                )
                with gr.Column(visible=False, scale=6, min_width=200) as self.frame:
                    self.image = image_input("Image to ask both with", height=170)
                self.go = gr.Button("Ask both", variant="primary", scale=1, min_width=120)
            with gr.Row(elem_classes="lcl-chips") as self.chips:
                self.examples = [gr.Button(words, size="sm", min_width=0) for words in EXAMPLES]
        self.results = html_pane(INVITATION, js_on_load=PICK_SCRIPT, elem_id="compare-results")
        self.figures = html_pane(elem_id="compare-figures")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        sides = [self.left, self.right]
        pickers = [*sides, self.dataset]
        query = [self.turn, *pickers, self.mode, self.text, self.image]
        known = [*pickers, self.bare]
        refreshed = [*known, self.results, self.go]
        opened = [*refreshed, self.mode, self.text, self.frame, self.chips]
        figures: list[Any] = [self.draw_figures, [self.figures_turn, *sides], self.figures]
        for event, handle in ((tab.select, self.open_link), (navigation.select, self.open_address)):
            event(handle, [self.turn, *known], opened, **SILENT_EVENT | LAST_COUNTS).then(
                *figures, **SILENT_EVENT | LAST_COUNTS
            )
        for side in sides:
            side.input(self.refresh, known, refreshed, **SILENT_EVENT | LAST_COUNTS).then(
                self.search, query, self.results, **BUSY_EVENT | LAST_COUNTS
            ).then(*figures, **SILENT_EVENT | LAST_COUNTS)
        for event in (self.go.click, self.text.submit):
            event(self.submit_query, query, self.results, **BUSY_EVENT | EACH_COUNTS)
        for event in (self.image.upload, self.dataset.input):
            event(self.search, query, self.results, **BUSY_EVENT | LAST_COUNTS)
        self.mode.input(self.switch, self.mode, [self.text, self.frame, self.chips], **SILENT_EVENT | LAST_COUNTS)
        for button, words in zip(self.examples, EXAMPLES, strict=True):
            button.click(lambda words=words: words, outputs=self.text, **SILENT_EVENT).then(
                self.search, query, self.results, **BUSY_EVENT | EACH_COUNTS
            )
        self.results.select(self.follow, [self.turn, *pickers], self.results, **BUSY_EVENT | EACH_COUNTS)

    def refresh(
        self,
        left: str | None,
        right: str | None,
        dataset: str | None,
        bare: bool = False,
        address: Mapping[str, str] | None = None,
    ) -> tuple[Any, ...]:
        """Update the choices. Results that are shown stay.

        Args:
            left, right, dataset: values of the pickers; those of the ``address`` replace them.
        """
        pickers = left, right, dataset
        left, right, dataset = _addressed(address or {}, *pickers)
        try:
            ranked, collections = rank_encoders(self.client), self.client.collections()
        except ApiError as error:
            words = unreachable_box(error, reopens=True)
            return gr.skip(), gr.skip(), gr.skip(), bare or not left, gr.skip() if left else words, gr.skip()
        encoders, choices = [each.encoder for each in ranked], _choices(ranked)
        sides = _sides(left, right, encoders)
        if sides is None:
            return (
                update_dropdown(choices, pickers[0], left),
                update_dropdown(choices, pickers[1], right),
                update_dropdown([], None),
                True,
                TOO_FEW_ENCODERS,
                gr.Button(interactive=False),
            )
        names = _datasets(*sides, collections) or [dataset or SAMPLE_DATASET]
        picked = dataset if dataset in names else names[0]
        updates = [
            update_dropdown(choices, current, side["id"]) for current, side in zip(pickers[:2], sides, strict=True)
        ]
        results: Any = INVITATION if bare else gr.skip()
        try:
            _side_collections(sides, picked, collections)
        except _MissingInput as missing:
            bare, results = True, missing.html
        else:
            bare = False
        go = gr.Button(interactive=not bare)
        known = {each.id for each in ranked}
        if lost := next((id for side in SIDES if (id := (address or {}).get(side)) and id not in known), None):
            bare, results = True, error_box(f"There is no encoder {lost!r}.", "Not found")
        datasets = update_dropdown([(name, name) for name in names], pickers[2], picked)
        return *updates, datasets, bare, results, go

    def open_link(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """As ``open_address``, when the tab is opened: query and results stay unless the address has a query.

        What was typed and asked by the time of the answer is not lost so. ``values``: the inputs.
        """
        address = read_address(request, "compare")
        return self._open(address, not address.keys().isdisjoint(("q", "item")), *values)

    def open_address(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """Encoders and query of the address; on that of another tab what was shown.

        Without an encoder no opening has succeeded yet: what was typed meanwhile stays. ``values``: the inputs.
        """
        if not values[1]:
            return self.open_link(request, *values)
        address = read_address(request, "compare")
        return self._open(address, bool(address), *values)

    def _open(
        self,
        address: Mapping[str, str],
        asks: bool,
        turn: PageSelection[int],
        left: str | None,
        right: str | None,
        dataset: str | None,
        bare: bool,
    ) -> tuple[Any, ...]:
        """``asks``: query and results become those of the address, unless something else was asked meanwhile."""
        began = turn.current
        *pickers, bare, results, go = self.refresh(left, right, dataset, bare or asks, address)
        kept = (gr.skip(),) * 4
        if turn.current != began:
            return *pickers, bare, gr.skip(), go, *kept
        if not asks or bare:
            return *pickers, bare, results, go, *kept
        left, right, dataset = _addressed(address, left, right, dataset)
        asked = address.get("q", "")
        query = {"text": asked} if asked else {"item": address["item"]} if address.get("item") else {}
        results = self.compare(turn, left, right, dataset, f"“{asked}”" if asked else "this image", **query)
        if results == gr.skip():
            return *pickers, bare, results, go, *kept
        return *pickers, bare, results, go, WORDS, gr.Textbox(asked, visible=True), *self.switch(WORDS)[1:]

    def switch(self, mode: str) -> tuple[Any, Any, Any]:
        words = mode == WORDS
        return gr.Textbox(visible=words), gr.Column(visible=not words), gr.Row(visible=words)

    def search(
        self,
        turn: PageSelection[int],
        left: str | None,
        right: str | None,
        dataset: str | None,
        mode: str,
        text: str,
        image: str | None,
    ) -> Any:
        """Hits of both encoders for the text or the image, or an error."""
        words, query = text.strip(), dict[str, Any]()
        if mode == WORDS:
            query |= {"text": words} if words else {}
        elif image:
            try:
                query["image"] = read_upload(image)
            except ApiError as error:
                return api_error_box(error, "The search was refused")
        about = f"“{words}”" if mode == WORDS else "your image"
        return self.compare(turn, left, right, dataset, about, **query)

    def submit_query(self, *query: Any) -> Any:
        """As ``search``; without a query, what is missing."""
        drawn = self.search(*query)
        return NO_QUERY if drawn == INVITATION else drawn

    def follow(
        self, turn: PageSelection[int], left: str | None, right: str | None, dataset: str | None, event: gr.EventData
    ) -> Any:
        """Search both sides with an image of one side; it has the same id in both collections."""
        return self.compare(turn, left, right, dataset, "this image", item=str(event.pick).removeprefix("item:"))

    def compare(
        self,
        turn: PageSelection[int],
        left: str | None,
        right: str | None,
        dataset: str | None,
        about: str,
        **query: Any,
    ) -> Any:
        """Hits of both, or what is missing; no change if something newer was asked meanwhile.

        Args:
            turn: number of the newest query.
            about: the query in words.
        """
        turn.current = mine = turn.current + 1
        drawn = self._search_both(left, right, dataset, about, **query)
        return drawn if turn.current == mine else gr.skip()

    def _search_both(self, left: str | None, right: str | None, dataset: str | None, about: str, **query: Any) -> str:
        try:
            encoders, collections = self._pair(left, right, dataset)
        except _MissingInput as missing:
            return missing.html
        except ApiError as error:
            return unreachable_box(error)
        if not query:
            return INVITATION
        answers: list[Any] = []
        for collection in collections:
            try:
                answers.append(self.client.search(collection, k=HITS_PER_SIDE, **query)["hits"])
            except ApiError as error:
                no_texts = error.code == "no_text_encoder"
                answers.append(NO_TEXTS if no_texts else api_error_box(error, "The search was refused"))
        return mark_view(
            draw_sides(encoders, collections, answers, about),
            f"«{query['text']}»" if "text" in query else "Similar to an image",
            q=query.get("text"),
            item=query.get("item"),
            dataset=dataset,
        )

    def draw_figures(self, turn: PageSelection[int], left: str | None, right: str | None) -> Any:
        """Metrics that both have; no change if those of others were asked for meanwhile."""
        turn.current = mine = turn.current + 1
        drawn = self._draw_figures(left, right)
        return drawn if turn.current == mine else gr.skip()

    def _draw_figures(self, left: str | None, right: str | None) -> str:
        if not left or not right or left == right:
            return ""
        try:
            comparison = self.client.compare_encoders(left, right)
            figures = [self.client.encoder_figures(each) for each in (left, right)]
        except ApiError as error:
            return error_box(error.message, "The figures cannot be shown")
        title = heading(
            "Figures of both", "What both were examined on, from their newest two evaluations with equal settings."
        )
        sides = [comparison["left"], comparison["right"]]
        names = " and ".join(str(side["name"]) for side in sides)
        return mark_view(title + draw_figures(sides, comparison["rows"], figures), names, left=left, right=right)

    def _pair(self, left: str | None, right: str | None, dataset: str | None) -> tuple[Sides, list[str]]:
        """Both encoders, and the collection of each. Raises: ApiError, _MissingInput."""
        encoders = self.client.encoders()
        if not {left, right} <= {each["id"] for each in encoders}:  # the ranking asks for the figures of each
            encoders = [each.encoder for each in rank_encoders(self.client)]
        sides, collections = _sides(left, right, encoders), self.client.collections()
        if sides is None:
            raise _MissingInput(TOO_FEW_ENCODERS)
        name = dataset or next(iter(_datasets(*sides, collections)), SAMPLE_DATASET)
        return sides, _side_collections(sides, name, collections)


class _MissingInput(Exception):
    """A placeholder (HTML) that says what is missing."""

    def __init__(self, html: str) -> None:
        super().__init__(html)
        self.html = html


def _choices(encoders: Sequence[RankedEncoder]) -> list[tuple[str, str]]:
    """(name, id) of every encoder, best first; equal names get the end of the id."""
    names = Counter(each.label for each in encoders)
    ends = [f" · {each.id[-4:]}" if names[each.label] > 1 else "" for each in encoders]
    return [(each.label + end, each.id) for each, end in zip(encoders, ends, strict=True)]


def _collections_of(encoder: Json, collections: Sequence[Json]) -> dict[str, str]:
    """{dataset: id of its newest collection by this encoder}."""
    own = [each for each in collections if each["encoder_id"] == encoder["id"] and each["dataset"]]
    return {each["dataset"]: each["id"] for each in reversed(own)}


def _datasets(left: Json, right: Json, collections: Sequence[Json]) -> list[str]:
    """Datasets of which both have a collection."""
    other = _collections_of(right, collections)
    return [name for name in _collections_of(left, collections) if name in other]


def _addressed(address: Mapping[str, str], *pickers: str | None) -> Iterator[str | None]:
    """Left and right encoder and dataset: of the address, else of the pickers."""
    return (address.get(name, value) for name, value in zip((*SIDES, "dataset"), pickers, strict=True))


def _sides(left: str | None, right: str | None, encoders: Sequence[Json]) -> Sides | None:
    """The chosen encoders; a missing one is replaced by the best that is not the other.

    Args:
        encoders: best first.
    """
    known = {each["id"]: each for each in encoders}
    if len(known) < 2:
        return None
    best, second = list(known)[:2]
    last = right if right in known else best if best != left else second
    first = left if left in known else second if second != last else best
    return known[str(first)], known[str(last)]


def _side_collections(sides: Sides, dataset: str, collections: Sequence[Json]) -> list[str]:
    """The collection of each encoder. Raises: _MissingInput."""
    if sides[0]["id"] == sides[1]["id"]:
        raise _MissingInput(SAME_ENCODER)
    own = [_collections_of(each, collections).get(dataset) for each in sides]
    missing = [each for each, collection in zip(sides, own, strict=True) if collection is None]
    if missing:
        raise _MissingInput(no_collection(missing, dataset))
    return [str(collection) for collection in own]
