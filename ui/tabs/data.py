"""Data tab: the documents of a dataset with their images in the text, what can be done with it, and a new one."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import Json
from ui.addresses import address, mark_view, read_address
from ui.common import (
    BUSY_EVENT,
    EACH_COUNTS,
    LAST_COUNTS,
    SILENT_EVENT,
    draw_tag_form,
    html_pane,
    may_change,
    own_key,
    parse_tag_change,
    removal_of,
)
from ui.figures import number
from ui.html import (
    OPENING,
    PICK_SCRIPT,
    dataset_image_url,
    empty_state,
    error_box,
    esc,
    notice,
    plural,
    question_box,
    toast,
)
from ui.ranking import SAMPLE_DATASET, dataset_choices, last_used, used_script
from ui.tabs.corpus_import import CorpusImport

PER_PAGE = 24
MAX_TITLE = 80  # characters
SAMPLE_LICENCE = "CC BY 4.0, Apache 2.0, MIT, public domain"  # of the works that lcl_core/data/sample/NOTICE lists
NO_DATASET = empty_state("No data yet", "Add a folder or a zip.")
# A choice is a link like any other (address.js).
_FOLLOW = """const link = Object.assign(document.createElement('a'), {href: `?${query}`});
  document.body.append(link); link.click(); link.remove();"""
OPEN_SCRIPT = f"""(dataset) => {{
  if (!dataset) return;
  ({used_script("dataset")})(dataset);
  const query = new URLSearchParams({{dataset}});
  {_FOLLOW}
}}"""
FIND_SCRIPT = f"""(dataset, words) => {{
  const query = new URLSearchParams(location.search);
  query.delete('at');
  query.set('dataset', dataset);
  if (words.trim()) query.set('q', words.trim()); else query.delete('q');
  {_FOLLOW}
}}"""
# After a change the page is drawn again, and a question gets the focus (page.js).
CHANGED_SCRIPT = """() => {
  window.dispatchEvent(new CustomEvent('lcl-navigate', {detail: 'data'}));
  document.querySelector('#data-actions')?.removeAttribute('open');
  window.lclQuestion.focus();
}"""
View = dict[str, str]  # parameters of the address


class DataTab:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.corpus_import = CorpusImport(client)

    def build(self) -> None:
        self.view = gr.State({})
        with gr.Row(elem_classes="lcl-data-bar") as self.bar:
            self.dataset = gr.Dropdown(label="Dataset", show_label=False, scale=2, min_width=160)
            self.words = gr.Textbox(
                "", label="Find", show_label=False, placeholder="Find …", max_lines=1, scale=3, min_width=140
            )
            self.actions = html_pane(js_on_load=PICK_SCRIPT)
        with gr.Column(visible=False) as self.adding:
            self.corpus_import.build()
        self.said = html_pane(js_on_load=PICK_SCRIPT)
        self.shown = html_pane(OPENING, js_on_load=PICK_SCRIPT, elem_id="documents")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        outputs = [self.view, self.bar, self.adding, self.dataset, self.words, self.actions, self.shown]
        # one event, so that what was asked for last is drawn last
        gr.on(
            [tab.select, navigation.select], self.open, [self.view, self.dataset, self.words], outputs,
            **BUSY_EVENT | LAST_COUNTS,
        )  # fmt: skip
        self.dataset.input(None, self.dataset, js=OPEN_SCRIPT)
        self.words.submit(None, [self.dataset, self.words], js=FIND_SCRIPT)
        picks = [pane.select for pane in (self.actions, self.said, self.shown)]
        gr.on(picks, self.act, None, self.said, **SILENT_EVENT | EACH_COUNTS).then(None, js=CHANGED_SCRIPT)
        self.corpus_import.wire()

    def open(self, view: View, dataset: str | None, words: str, request: gr.Request) -> dict[Any, Any]:
        """What the address asks for, else what was shown last."""
        view = read_address(request, "data") or view
        adds = view.get("new") == "upload"
        panels = {self.view: view, self.bar: gr.Row(visible=not adds), self.adding: gr.Column(visible=adds)}
        if adds:
            return panels | {self.actions: "", self.shown: mark_view("", "Add data", tab="data", new="upload")}
        try:
            names = [name for name, _ in dataset_choices(self.client)]
            chosen = view.get("dataset") or next(
                (name for name in (dataset, last_used(request, "dataset"), *names) if name in names), None
            )
            view = {**view, "dataset": chosen or ""}
            # what stays is left out: another may be chosen, or typed, before the update arrives
            menu: Any = gr.update(choices=names) if chosen == dataset else gr.update(choices=names, value=chosen)
            found = gr.skip() if words.strip() == view.get("q", "") else view.get("q", "")
            actions, shown = self._draw(view) if chosen else (draw_actions(None), NO_DATASET)
        except ApiError as error:
            problem = error_box(error.message, "The documents cannot be shown", reopens=True)
            return panels | {self.shown: mark_view(problem, **_parameters(view))}
        drawn = {self.dataset: menu, self.words: found, self.actions: actions}
        return panels | drawn | {self.shown: mark_view(shown, chosen or "", **_parameters(view))}

    def _draw(self, view: View) -> tuple[str, str]:
        """Actions, and documents below their counts. Raises: ApiError."""
        name, first = view["dataset"], _first(view)
        try:
            dataset = self.client.dataset(name)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return draw_actions(None), empty_state(f"There is no dataset {name}", "Choose another one, or add data.")
        statistics = dataset.get("statistics") or self.client.dataset_statistics(name)
        pairs = view.get("show") == "pairs"
        filters = {"split": view.get("split"), "source": view.get("source")} if pairs else {}
        page = self.client.dataset_documents(
            name, first, PER_PAGE, "pairs" if pairs else "interleaved", q=view.get("q", ""), tag=view.get("tag"),
            **filters,
        )  # fmt: skip
        items, deletes = [item["item"] for item in page["items"]], may_change(own_key(self.client), dataset["owner"])
        actions = draw_actions(name, view.get("tag", ""), items, deletes=deletes)
        head = draw_head(view, statistics, dataset["tags"])
        style = "lcl-docs lcl-docs--pairs" if pairs else "lcl-docs"
        drawn = "".join(draw_document(name, item) for item in page["items"])
        pages = draw_pages(view, page)
        return actions, f'{head}{pages}<div class="{style}">{drawn}</div>{pages if page["next"] else ""}'

    def act(self, event: gr.EventData) -> str:
        """A tag form, or the deletion of a dataset. Returns: what has been done, or a question."""
        verb, _, name = str(event.pick).partition(":")
        try:
            if verb == "tag":
                name, _, value = name.partition(":")
                change = parse_tag_change(value)
                tags = {"remove" if change.remove else "add": [change.tag]}
                return notice(change.describe(self.client.tag_documents(name, change.items, **tags), "item"), "Tags")
            if verb == "deletion":
                self.client.delete_dataset(name)
                return notice(f"{name} is deleted.", "Data")
        except ApiError as error:
            return toast(error.message, "Nothing was changed")
        if verb != "delete":
            return ""
        lost = "Its versions, its tags and its images in the service are deleted. Files in a data root stay."
        return question_box(f"Delete {name}?", lost, (f"deletion:{name}", "Delete"), ("keep:", "Keep it"))


def _parameters(view: View) -> View:
    """Of the address of a view; the first page has no number."""
    names = ("dataset", "show", "split", "source", "q", "tag")
    first = _first(view)
    return {name: view.get(name, "") for name in names} | ({"at": str(first + 1)} if first else {})


def _first(view: View) -> int:
    """Offset of the page."""
    at = view.get("at", "1")
    return max(0, int(at) - 1) if at.isdecimal() else 0


def draw_actions(dataset: str | None, tag: str = "", items: list[str] | None = None, *, deletes: bool = False) -> str:
    """A menu of what can be done with a dataset, and a link to a new one. ``deletes``: the reader may delete it."""
    add = f'<a class="lcl-button" id="data-add" href="{esc(address(tab="data", new="upload"))}">Add data</a>'
    if dataset is None:
        return f'<div class="lcl-drops">{add}</div>'
    only, others = {"only_tags": tag}, {"without_tags": tag}
    conversions = [(f"Convert only “{tag}”", "convert", only), (f"Convert all but “{tag}”", "convert", others)]
    forms: list[tuple[str, str, View]] = [
        ("Validate", "validate", {}),
        *(conversions if tag else [("Convert", "convert", {})]),
        ("Match captions", "match", {}),
        ("Index", "index", {}),
        ("Pre-train on it", "pretrain", {}),
    ]
    links = "".join(
        f'<a href="{esc(address(tab="runs", new=kind, dataset=dataset, **more))}">{esc(words)}</a>'
        for words, kind, more in forms
    )
    tags = draw_tag_form(dataset, items, hint=f"Tag these {len(items)} …") if items else ""
    delete = f'<button type="button" data-pick="delete:{esc(dataset)}">Delete …</button>' if deletes else ""
    return (
        '<div class="lcl-drops"><details class="lcl-drop" id="data-actions"><summary>Actions</summary>'
        f"<div>{links}{delete}{tags}</div></details>{add}</div>"
    )


def draw_head(view: View, statistics: Json, tags: dict[str, int]) -> str:
    """Counts, of which each that is a filter is a link; and the licence."""
    documents, pairs = statistics.get("documents", 0), statistics.get("pairs", 0)
    kinds = [("", "documents", documents), ("pairs", "captioned images", pairs)]
    counts = "".join(
        _facet(view, "show", show, f"{number(count)} {words}", split="", source="", tag=view.get("tag", ""))
        for show, words, count in kinds
        if count or view.get("show", "") == show
    )
    counts += f"<span>{number(statistics.get('images', 0))} images</span>"
    counts += f"<span>licence {SAMPLE_LICENCE if view['dataset'] == SAMPLE_DATASET else 'none given'}</span>"
    rows = [counts]
    facets: dict[str, dict[str, int]] = {"tag": tags}
    if view.get("show") == "pairs":
        facets |= {"split": statistics.get("splits", {}), "source": statistics.get("sources", {})}
    for name, values in facets.items():
        known = {value: count for value, count in values.items() if value and isinstance(count, int)}
        if len(known) > 1 or (known and (name == "tag" or name in view)):
            listed = (_facet(view, name, value, f"{value} {number(count)}") for value, count in known.items())
            rows.append(f"<span>{name.title()}</span>{''.join(listed)}")
    return "".join(f'<p class="lcl-key">{row}</p>' for row in rows)


def _facet(view: View, name: str, value: str, words: str, **also: str) -> str:
    """A link to what has the value; where it is chosen already, to all."""
    chosen = view.get(name, "") == value
    target = {**_parameters(view), **also, name: "" if chosen and name != "show" else value, "at": ""}
    mark = ' aria-current="true"' if chosen else ""
    return f'<a href="{esc(address(**target))}"{mark}>{esc(words)}</a>'


def draw_pages(view: View, page: Json) -> str:
    """Which documents are shown, and links to those before and after."""
    first, items, total = _first(view), page["items"], page["total"]
    filters = [f"“{view['q']}”"] if view.get("q") else []
    filters += [f"the tag {view['tag']}"] if view.get("tag") else []
    last = total if page["next"] is None else page["next"]
    if filters:
        words = f"{len(items) or 'Nothing'} with {' and '.join(filters)} among {number(first + 1)}–{number(last)}"
    else:
        words = f"{number(first + 1)}–{number(first + len(items))}" if items else "Nothing here"
    before = 0 if filters else max(0, first - PER_PAGE)  # a search goes forward only
    target = _parameters(view)
    links = ""
    if first:
        link = address(**{**target, "at": str(before + 1) if before else ""})
        links += f'<a href="{esc(link)}">{"First" if filters or not items else "Previous"}</a>'
    if page["next"] is not None:
        links += f'<a href="{esc(address(**{**target, "at": str(page["next"] + 1)}))}">Next</a>'
    return f'<p class="lcl-key" role="status"><span>{esc(words)} of {number(total)}</span>{links}</p>'


def draw_document(dataset: str, item: Json) -> str:
    """A title with counts, the text with its images in their order, and tags."""
    segments, title = item["segments"], document_title(item)
    images = sum("image" in segment for segment in segments)
    words = sum(len(segment.get("text", "").split()) for segment in segments)
    facts = [plural(images, "image"), plural(words, "word")]
    facts += [fact for fact in (item.get("split"), item.get("source"), *(item.get("labels") or {}).values()) if fact]
    marks = "".join(f"<span>{esc(fact)}</span>" for fact in facts)
    told = next((segment for segment in segments if _text(segment) == title), None)
    segments = [segment for segment in segments if segment is not told]
    body = f"<p>{' '.join(_segment(dataset, segment) for segment in segments) or 'It is empty.'}</p>"
    if "problem" in item:
        body = error_box(item["problem"], "This document cannot be read")
    return (
        f'<article class="lcl-doc" data-key="{esc(dataset)}:{esc(item["item"])}"><header>'
        f'<h3 title="{esc(item["id"])}">{esc(title)}</h3>{marks}{_tags(dataset, item, title)}</header>{body}</article>'
    )


def _text(segment: Json) -> str:
    return str(segment.get("text", "")).strip().removesuffix(".")


def _segment(dataset: str, segment: Json) -> str:
    if "text" in segment:
        return esc(segment["text"])
    name, similarity = segment["image"], segment.get("similarity")
    hint = f"{name}, similarity {similarity:.2f}" if similarity is not None and similarity < 1 else name
    source = esc(dataset_image_url(dataset, name))
    return f'<img src="{source}" alt="{esc(name)}" title="{esc(hint)}" loading="lazy">'


def _tags(dataset: str, item: Json, title: str) -> str:
    """Tags of a document, each with a button that removes it, and a field for another one."""
    chips = ""
    for tag in item["tags"]:
        pick, name = f"tag:{dataset}:{removal_of(tag, item['item'])}", f"Remove the tag {tag} of {title}"
        button = f'<button type="button" data-pick="{esc(pick)}" aria-label="{esc(name)}">×</button>'
        chips += f'<span class="lcl-doc__tag">{esc(tag)}{button}</span>'
    return f"{chips}<details><summary>Tag</summary>{draw_tag_form(dataset, [item['item']])}</details>"


def document_title(item: Json) -> str:
    """What a document is about: its address, else its first text where it is short, else its number or id."""
    name = str(item["id"])
    if name.startswith(("http://", "https://")):
        host, _, path = name.partition("://")[2].partition("/")
        page = unquote(re.split(r"[?#]", path)[0]).rstrip("/").rpartition("/")[2]
        words = re.sub(r"[-_+\s]+", " ", re.sub(r"\.\w{2,5}$", "", page)).strip()
        return f"{words} ({host})" if words else host
    text = next(filter(None, map(_text, item["segments"])), "")
    if 0 < len(text) <= MAX_TITLE:
        return text
    return f"No. {int(name) + 1}" if name.isdecimal() else name
