"""Documents tab: the documents of a dataset with their images in place, page by page, and their tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import Json
from ui.addresses import address, mark_view, read_address
from ui.common import (
    BUSY_EVENT,
    CLEAR_SCRIPT,
    EACH_COUNTS,
    LAST_COUNTS,
    SILENT_EVENT,
    PageSelection,
    draw_tag_form,
    first_choice,
    html_pane,
    parse_tag_change,
    removal_of,
    select_choice,
    update_dropdown,
)
from ui.figures import number
from ui.html import (
    PICK_SCRIPT,
    dataset_image_url,
    empty_state,
    error_box,
    esc,
    notice,
    run_link,
    status_line,
    toast,
)
from ui.ranking import dataset_choices, last_used, used_script
from ui.tabs.corpus_import import CorpusImport

PER_PAGE = 6
ALL = ""
VIEWS = [("Documents", "interleaved"), ("Captioned images", "pairs")]
NO_DATASET = empty_state(
    "No dataset yet", "Register one with “lcl data register NAME PATH”, or convert one with “lcl data convert”."
)
TITLE_CHARACTERS = 80
TEAM_NAMES = {"emojione": "EmojiOne", "emojione-v1": "EmojiOne v1", "fluent-3d": "Fluent 3D",
              "fxemoji": "FxEmoji", "openclipart": "Open Clip Art", "openmoji": "OpenMoji"}  # fmt: skip
# ids of the corpus builder's groups of images: "icons/tabler:arrows/6", "openclipart:food/fruit/0"; and those that it
# wrote before, as in the sample: "emoji:('noto', 'activities')/0"
_GROUPED_ID = re.compile(r"(?P<source>\w+):(?!\()(?P<topic>.+)/(?P<start>\d+)")
_TEAM_GROUPED_ID = re.compile(
    r"""(?P<source>\w+):\((?P<a>['"])(?P<team>.*?)(?P=a), (?P<b>['"])(?P<topic>.*)(?P=b)\)/(?P<start>\d+)"""
)
LOADING = '<div class="lcl-empty" role="status"><strong>Opening the dataset …</strong></div>'
# the number goes to a hidden field, and that of the reader is empty at once: another may be typed meanwhile
TAKE_NUMBER_SCRIPT = "(number) => [number, '']"


class DocumentsInput(NamedTuple):
    """What is shown of which dataset: the first inputs of each event; ``turn``: number of the newest page asked for."""

    turn: PageSelection[int]
    dataset: str | None
    view: str
    split: str = ALL
    source: str = ALL
    words: str = ""
    tag: str = ALL


QUERY_SIZE = len(DocumentsInput._fields)
UNCHANGED = (gr.skip(),) * 9  # of DocumentsTab.show
POSITION = 4  # among them


class DocumentsTab:
    title = "Documents"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.corpus_import = CorpusImport(client)

    def build(self) -> None:
        self.turn = gr.State(PageSelection(0))
        self.offset = gr.State(0)
        self.following = gr.State(None)  # offset of the next page
        self.wanted = gr.Textbox(visible=False)  # the number that was submitted
        with gr.Accordion("Use my corpus", open=False, elem_classes="lcl-panel", elem_id="corpus-panel") as self.drawer:
            self.corpus_import.build()
        with gr.Column(elem_classes="lcl-panel"):
            with gr.Row(elem_classes="lcl-toolbar"):
                self.view = gr.Radio(
                    VIEWS, value="interleaved", label="Show", show_label=False, elem_classes="lcl-segment", scale=3
                )
                self.dataset = gr.Dropdown(label="Dataset", scale=2, min_width=180)
                self.split = gr.Dropdown([("All", ALL)], value=ALL, label="Split", visible=False, min_width=130)
                self.source = gr.Dropdown([("All", ALL)], value=ALL, label="Source", visible=False, min_width=130)
                self.tag = gr.Dropdown(
                    [("All", ALL)], value=ALL, label="Tag", visible=False, min_width=130, elem_id="documents-tag"
                )
            with gr.Row(elem_classes="lcl-query"):
                self.words = gr.Textbox(
                    "", label="Words", show_label=False, placeholder="Find those with these words …", max_lines=1,
                    scale=6,
                )  # fmt: skip
                self.find = gr.Button("Find", scale=1, min_width=90, elem_id="documents-find")
                self.number = gr.Textbox(
                    "", label="Number", show_label=False, placeholder="Go to No. …", max_lines=1, scale=1, min_width=110
                )
            with gr.Row(elem_classes="lcl-pager"):
                self.position = html_pane(elem_id="documents-place")
                self.check = gr.Button("Validate", size="sm", min_width=90, elem_id="documents-validate")
                self.previous = gr.Button("Previous", size="sm", min_width=90, interactive=False)
                self.next = gr.Button("Next", size="sm", min_width=90, interactive=False)
        self.tagged = html_pane()
        self.shown = html_pane(LOADING, js_on_load=PICK_SCRIPT, elem_id="documents")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        inputs = [self.turn, self.dataset, self.view, self.split, self.source, self.words, self.tag]
        outputs = [
            self.offset, self.split, self.source, self.tag, self.position, self.previous, self.next, self.following,
            self.shown,
        ]  # fmt: skip
        now = [*inputs, self.offset]
        for event in (tab.select, navigation.select):  # a dataset may have been made since
            event(self.refresh, self.dataset, self.dataset, **SILENT_EVENT | LAST_COUNTS).then(
                self.open_address, now, [self.dataset, self.view, self.words, *outputs], **SILENT_EVENT | LAST_COUNTS
            )
        self.dataset.input(None, self.dataset, js=used_script("dataset"))
        for change in (self.dataset.input, self.view.input):
            change(None, None, self.words, js=CLEAR_SCRIPT)
            change(self.start, inputs[:3], outputs, **BUSY_EVENT | LAST_COUNTS)
        for change in (self.split.input, self.source.input, self.tag.input, self.find.click, self.words.submit):
            change(self.show_inputs, inputs, outputs, **BUSY_EVENT | LAST_COUNTS)
        self.next.click(self.show_inputs, [*inputs, self.following], outputs, **BUSY_EVENT)
        self.previous.click(self.go_back, now, outputs, **BUSY_EVENT)
        self.number.submit(None, self.number, [self.wanted, self.number], js=TAKE_NUMBER_SCRIPT).then(
            self.go_to, [*inputs, self.wanted], outputs, **BUSY_EVENT | LAST_COUNTS
        )
        self.shown.select(self.change_tags, now, [self.tagged, *outputs], **BUSY_EVENT | EACH_COUNTS)
        self.corpus_import.wire()
        for event in (tab.select, navigation.select):
            event(self.open_drawer, None, self.drawer, **SILENT_EVENT | LAST_COUNTS)
        self.check.click(self.validate, self.dataset, self.position, **BUSY_EVENT)

    def open_drawer(self, request: gr.Request) -> Any:
        """``?tab=documents&new=corpus`` opens the panel for a corpus of one's own."""
        return gr.Accordion(open=True) if read_address(request, "documents").get("new") == "corpus" else gr.skip()

    def refresh(self, current: str | None, request: gr.Request | None = None) -> Any:
        """Update the datasets; the selected one stays."""
        try:
            return update_dropdown(dataset_choices(self.client), current, current or last_used(request, "dataset"))
        except ApiError:
            return gr.skip()  # show reports the error

    def open_address(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """The page of the address, else the one shown. ``values``: a DocumentsInput, and the offset."""
        query, offset = DocumentsInput(*values[:QUERY_SIZE]), values[-1]
        if not (linked := read_address(request, "documents")).get("dataset"):
            return *(gr.skip(),) * 3, *self.show(query, offset)
        first = linked.get("start", "1")  # "page" and "view" are parameters of Gradio
        split, source, tag = (linked.get(name, ALL) for name in ("split", "source", "tag"))
        view = "pairs" if linked.get("show") == "pairs" else "interleaved"
        opened = DocumentsInput(query.turn, linked["dataset"], view, split, source, linked.get("q", ""), tag)
        drawn = self.show(opened, int(first) - 1 if first.isdecimal() else 0)
        if drawn is UNCHANGED:
            return *(gr.skip(),) * 3, *drawn
        # what stays is left out: another may be chosen, or typed, before the update arrives
        menu = select_choice(partial(dataset_choices, self.client), query.dataset, opened.dataset)
        pairs = ((opened.view, query.view), (opened.words, query.words))
        return menu, *(gr.skip() if new == old else new for new, old in pairs), *drawn

    def start(self, turn: PageSelection[int], dataset: str | None, view: str) -> tuple[Any, ...]:
        """Another dataset or view: the first page without words and filters."""
        return self.show(DocumentsInput(turn, dataset, view))

    def show_inputs(self, *values: Any) -> tuple[Any, ...]:
        """The page that the inputs ask for. ``values``: a DocumentsInput, and perhaps an offset."""
        return self.show(DocumentsInput(*values[:QUERY_SIZE]), *values[QUERY_SIZE:], stays=True)

    def go_back(self, *values: Any) -> tuple[Any, ...]:
        """The page before; with words or a tag the first one. ``values``: a DocumentsInput, and the offset."""
        query, offset = DocumentsInput(*values[:QUERY_SIZE]), values[-1]
        return self.show(query, 0 if query.words.strip() or query.tag else offset - PER_PAGE, stays=True)

    def go_to(self, *values: Any) -> tuple[Any, ...]:
        """The page that begins with a number, the last of ``values``, counted from 1. Another text changes nothing."""
        digits = values[-1].strip().replace(",", "")
        return self.show_inputs(*values[:-1], int(digits) - 1) if digits.isdecimal() else UNCHANGED

    def change_tags(self, event: gr.EventData, *values: Any) -> tuple[Any, ...]:
        """Documents gain or lose a tag (``tag:DATASET:CHANGE``). ``values``: a DocumentsInput, and the offset."""
        _, owner, value = str(event.pick).split(":", 2)
        change = parse_tag_change(value)
        verb = "remove" if change.remove else "add"
        query = DocumentsInput(*values[:QUERY_SIZE])
        shown = query.turn.current
        try:
            changed = self.client.tag_documents(owner, change.items, **{verb: [change.tag]})
        except ApiError as error:
            return toast(error.message, "The tags were not changed"), *UNCHANGED
        said = notice(change.describe(changed, "captioned image" if query.view == "pairs" else "document"), "Tags")
        if query.turn.current != shown:  # other documents were asked for meanwhile
            return said, *UNCHANGED
        return said, *self.show_inputs(*values)

    def show(self, query: DocumentsInput, offset: int | None = 0, *, stays: bool = False) -> tuple[Any, ...]:
        """One page: offset, filters, position, buttons, offset of the next one, documents.

        Args:
            stays: an error stands beside the documents on show, so that the same button can try again. Otherwise it
                stands in their place, with the address of the page.

        Returns: ``UNCHANGED`` if a newer page was asked for meanwhile.
        """
        query.turn.current = mine = query.turn.current + 1
        query, first = query._replace(words=query.words.strip()), max(0, int(offset or 0))
        try:
            drawn = self._draw_page(query, first)
        except ApiError as error:
            problem = error_box(error.message, "The documents cannot be shown", reopens=not stays)
            if stays:
                drawn = (*UNCHANGED[:POSITION], problem, *UNCHANGED[POSITION + 1 :])
            else:
                drawn = self._empty(mark_view(problem, query.dataset or "", **_address_of(query, first)))
        return drawn if query.turn.current == mine else UNCHANGED

    def _draw_page(self, query: DocumentsInput, offset: int) -> tuple[Any, ...]:
        """As ``show``. Raises: ApiError."""
        _, dataset, view, split, source, words, tag = query
        pairs = view == "pairs"
        dataset = dataset or first_choice(dataset_choices(self.client))
        if dataset is None:
            return self._empty(NO_DATASET)
        if pairs:
            self.client.dataset_statistics(dataset)  # caches the values of the filters
        tags = self.client.dataset_tags(dataset)
        tag = tag if tag in tags else ALL  # of another dataset, or the last one was removed
        query = query._replace(dataset=dataset, tag=tag)
        page = self._fetch_page(dataset, query, offset)
        if 0 < page["total"] <= offset:  # of a number beyond the end, or of an earlier version of the dataset
            offset = 0 if words or tag else max(0, page["total"] - PER_PAGE)
            page = self._fetch_page(dataset, query, offset)
        items, following = page["items"], page["next"]
        parameters = _address_of(query, offset)
        if words or tag:
            position = draw_found(dataset, words, tag, offset, page)
        else:
            position = draw_position(view, offset, page) if items else status_line("Nothing here")
        if items:
            drawn = draw_documents(dataset, items)
        else:
            drawn = _nothing(view, filtered=bool(split or source), words=words, tag=tag)
        offset = offset if items or words or tag else 0
        menu = [("All", ALL), *((f"{name} ({number(count)})", name) for name, count in tags.items())]
        return (
            offset,
            *_filters(page, pairs, split, source),
            gr.Dropdown(choices=menu, value=tag, visible=bool(tags)),
            position,
            *_more(offset, following),
            following,
            mark_view(drawn, dataset, **parameters),
        )

    def _fetch_page(self, dataset: str, query: DocumentsInput, offset: int) -> Json:
        """Raises: ApiError."""
        filters = {"split": query.split or None, "source": query.source or None} if query.view == "pairs" else {}
        return self.client.dataset_documents(
            dataset, offset, PER_PAGE, query.view, q=query.words, tag=query.tag or None, **filters
        )

    def validate(self, dataset: str | None) -> str:
        """Queue a validation run, with a link to it."""
        if not dataset:
            return status_line("Choose a dataset first.")
        try:
            run = self.client.submit("validate", {"dataset": dataset})
        except ApiError as error:
            return error_box(error.message, "It cannot be validated")
        return f'<p class="lcl-note" role="status">Validation is queued: {run_link(run["id"])} in the Runs tab.</p>'

    @staticmethod
    def _empty(html: str) -> tuple[Any, ...]:
        hidden = gr.Dropdown(visible=False)
        return 0, hidden, hidden, hidden, "", *_more(0, None), None, html


def _address_of(query: DocumentsInput, offset: int) -> dict[str, Any]:
    """Parameters of the address of a page."""
    pairs = query.view == "pairs"
    filters = {"split": query.split, "source": query.source} if pairs else {}
    start = offset + 1 if offset else None
    return {"dataset": query.dataset, "show": "pairs" if pairs else "", "start": start, "q": query.words,
            "tag": query.tag, **filters}  # fmt: skip


def draw_position(view: str, offset: int, page: Json) -> str:
    """Position of the page."""
    what = "Captioned images" if view == "pairs" else "Documents"
    last = offset + len(page["items"])
    return (
        f'<p class="lcl-key" role="status"><span><b>{what} {number(offset + 1)}–{number(last)}</b> '
        f"of {number(page['total'])}</span></p>"
    )


def draw_found(dataset: str, words: str, tag: str, offset: int, page: Json) -> str:
    """How many of which numbers have the words and the tag, and conversions with and without what has the tag."""
    last = number(page["total"] if page["next"] is None else page["next"])
    among = f"among {number(offset + 1)}–{last} of {number(page['total'])}"
    asked = " and ".join(filter(None, (f"“{esc(words)}”" if words else "", f"the tag {esc(tag)}" if tag else "")))
    links = {"Convert these alone": "only_tags", "Convert all others": "without_tags"} if tag else {}
    ways = "".join(
        f'<a href="{esc(address(tab="runs", new="convert", dataset=dataset, **{field: tag}))}">{label}</a>'
        for label, field in links.items()
    )
    return f'<p class="lcl-key" role="status"><span><b>{len(page["items"])} with {asked}</b> {among}</span>{ways}</p>'


def draw_documents(dataset: str, items: Sequence[dict[str, Any]]) -> str:
    """Documents, and a field for a tag of all of them."""
    form = draw_tag_form(dataset, [item["item"] for item in items], hint=f"Tag these {len(items)} …")
    return f'<div class="lcl-docs">{"".join(_document(dataset, item) for item in items)}</div>{form}'


def _document(dataset: str, item: dict[str, Any]) -> str:
    segments = item["segments"]
    if "problem" in item:
        body = error_box(item["problem"], "This document cannot be read")
    else:
        body = "".join(_segment(dataset, segment) for segment in segments) or status_line("It is empty.")
    title, key = document_title(item), esc(f"{dataset}:{item['item']}")
    facts = [item.get("split"), item.get("source"), *(item.get("labels") or {}).values()]
    marks = "".join(f"<span>{esc(fact)}</span>" for fact in facts if fact)
    return (
        f'<article class="lcl-doc" data-key="{key}"><header><h3 title="{esc(item["id"])}">{esc(title)}</h3></header>'
        f'<div class="lcl-doc__body" tabindex="0" role="group" aria-label="{esc(title)}">{body}</div>'
        f"<footer>{marks}{_tags(dataset, item, title)}</footer></article>"
    )


def _tags(dataset: str, item: dict[str, Any], title: str) -> str:
    """Tags of a document, each with a button that removes it, and a field for another one."""
    chips = ""
    for tag in item["tags"]:
        change = removal_of(tag, item["item"])
        name = f"Remove the tag {tag} of {title}"
        chips += (
            f'<span class="lcl-doc__tag">{esc(tag)}<button type="button" data-pick="{esc(f"tag:{dataset}:{change}")}" '
            f'title="Remove this tag" aria-label="{esc(name)}">×</button></span>'
        )
    return f"{chips}<details><summary>Tag</summary>{draw_tag_form(dataset, [item['item']])}</details>"


def document_title(item: dict[str, Any]) -> str:
    """What a document is about, of its id or else of its first sentence."""
    name = str(item["id"])
    if name.isdecimal():
        return f"No. {int(name) + 1}"
    if grouped := _GROUPED_ID.fullmatch(name) or _TEAM_GROUPED_ID.fullmatch(name):
        found = grouped.groupdict()
        topic, start = found["topic"], found["start"]
        name = found.get("team") or found["source"]
        team = TEAM_NAMES.get(name) or name.replace("-", " ").replace("_", " ").capitalize()
        title = f"{', '.join(topic.split('/'))} ({team})"
        return title if start == "0" else f"{title}, from image {int(start) + 1}"
    if name.startswith(("http://", "https://")):
        host, _, path = name.partition("://")[2].partition("/")
        page = unquote(re.split(r"[?#]", path)[0]).rstrip("/").rpartition("/")[2]
        words = re.sub(r"[-_+\s]+", " ", re.sub(r"\.\w{2,5}$", "", page)).strip()
        return f"{words} ({host})" if words else host
    texts = (" ".join(segment["text"].split()) for segment in item["segments"] if "text" in segment)
    first = re.split(r"(?<=[.!?])\s", next(texts, ""), maxsplit=1)[0]
    return (first if len(first) <= TITLE_CHARACTERS else f"{first[: TITLE_CHARACTERS - 1]}…") or name


def _segment(dataset: str, segment: dict[str, Any]) -> str:
    if "text" in segment:
        return f"<p>{esc(segment['text'])}</p>"
    name = segment["image"]
    similarity = segment.get("similarity")
    below = f"<figcaption>similarity {similarity:.2f}</figcaption>" if similarity is not None and similarity < 1 else ""
    source = esc(dataset_image_url(dataset, name))
    return f'<figure><img src="{source}" alt="{esc(name)}" title="{esc(name)}" loading="lazy">{below}</figure>'


def _filters(page: Json, pairs: bool, split: str, source: str) -> tuple[Any, Any]:
    """Split and source, visible if there is a choice."""
    made = []
    for known, current in ((page["splits"], split), (page["sources"], source)):
        choices = [("All", ALL), *((word, word) for word in known if word)]
        value = current if current in known else ALL
        made.append(gr.Dropdown(choices=choices, value=value, visible=pairs and len(choices) > 2))
    return made[0], made[1]


def _more(offset: int, following: int | None) -> tuple[Any, Any]:
    return gr.Button(interactive=offset > 0), gr.Button(interactive=following is not None)


def _nothing(view: str, *, filtered: bool, words: str = "", tag: str = "") -> str:
    if tag:
        return empty_state("Nothing here has this tag", "Choose All, or look among documents or captioned images.")
    if words:
        return empty_state(
            "Nothing found", "No item has all of these words. Try fewer, or the next ones if there are any."
        )
    if view == "pairs" and not filtered:
        return empty_state("No captioned images", "This dataset has documents only. Choose them above.")
    if view == "pairs":
        return empty_state("No captioned images", "There are none of this split and source. Choose others above.")
    return empty_state("No documents", "This dataset has captioned images only. Choose them above.")
