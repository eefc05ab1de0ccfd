"""Encoders tab: a list, best first, the model card of one, or the figures of two."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import Json
from lcl_core import __version__
from lcl_core.specs.base import slug
from ui.addresses import address, mark_view, read_address
from ui.common import (
    EACH_COUNTS,
    FOCUS_QUESTION_SCRIPT,
    LAST_COUNTS,
    SILENT_EVENT,
    PageSelection,
    html_pane,
    may_change,
    own_key,
    unreachable_box,
)
from ui.figures import draw_figures, draw_table, figure_label, interval_text, metric_text, number
from ui.html import (
    OPENING,
    PICK_SCRIPT,
    ago,
    empty_state,
    error_box,
    esc,
    fold,
    html_table,
    notice,
    pick_form,
    question_box,
    toast,
)
from ui.ranking import rank_encoders
from ui.tabs.run_view import draw_curves

PRODUCT_OWNER = "lcl"  # of the encoders that come with the product
PARAMETERS = ("encoder", "with", "find")
# export formats of LCL encoders -> labels; other encoders are exported as they are
EXPORTS = {"lcl": "lcl", "huggingface": "transformers, sentence-transformers", "timm": "timm", "onnx": "ONNX"}
CHANGES = ("pin", "unpin", "renaming", "deletion", "evaluate")
BACK = '<button type="button" data-pick="all:" aria-label="All encoders">‹</button>'
EMPTY = empty_state("No encoder yet", "Submit a pre-training run in the Runs tab; its encoder is listed here.")
TRAIN = '<a href="?tab=runs&amp;new=pretrain">New pre-training</a>'
IMPORT = (
    '<label>Import a folder of the server <input name="path" required maxlength="1000" autocomplete="off" '
    'placeholder="/data/clip-b32"></label><button type="submit">Import</button>'
)


@dataclass
class EncoderSelection(PageSelection[dict[str, str]]):
    """What is shown, as ``PARAMETERS`` of the address. ``checked``: ids; ``turn``: of the newest drawing."""

    checked: list[str] = field(default_factory=list)
    turn: int = 0


class EncodersTab:
    title = "Encoders"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.selection = gr.State(EncoderSelection({}))
        self.top = html_pane(OPENING, js_on_load=PICK_SCRIPT, elem_id="encoders")
        self.readme = gr.Markdown(sanitize_html=True, latex_delimiters=[], elem_classes="lcl-readme", visible=False)
        self.details = html_pane(elem_classes="lcl-details")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        panes = [self.top, self.readme, self.details]
        for event in (tab.select, navigation.select):
            event(self.open_address, self.selection, panes, **SILENT_EVENT | LAST_COUNTS)
        self.top.select(self.select, self.selection, panes, **SILENT_EVENT | EACH_COUNTS).then(
            None, js=FOCUS_QUESTION_SCRIPT
        )

    def open_address(self, selection: EncoderSelection, request: gr.Request) -> Any:
        """The encoder of ``?encoder=A``, two with ``&with=B``, else all; on another tab's address what was shown."""
        if address := read_address(request, "encoders"):
            selection.current = {name: address[name] for name in PARAMETERS if name in address}
        return self._draw(selection)

    def select(self, selection: EncoderSelection, event: gr.EventData) -> Any:
        """An encoder was opened, closed, chosen for a comparison, or is to be changed."""
        action, _, value = str(event.pick).partition(":")
        encoder, _, form = value.partition(":")
        above = below = ""
        if action in CHANGES:
            name = str(json.loads(form)["text"]) if action == "renaming" else ""
            try:
                below = self._change(action, encoder, name)
            except ApiError as error:
                above, below = draw_renaming(encoder, name) if name else "", toast(error.message)
            if action == "deletion" and not below:
                selection.current = {}
        elif action == "check":
            checked = [each for each in selection.checked if each != encoder]
            selection.checked = checked if len(checked) < len(selection.checked) else [*checked, encoder][-2:]
        elif action == "compare" and len(selection.checked) == 2:
            selection.current = dict(zip(("encoder", "with"), selection.checked, strict=True))
        elif action == "compare":
            below = toast("Choose two encoders first.", "Compare")
        elif action == "find":
            selection.current = {"find": str(json.loads(value)["text"])}
        elif action == "import":
            path = str(json.loads(value)["text"])
            try:
                made = self.client.import_encoder(slug(PurePath(path).name), path)
                selection.current = {"encoder": str(made["id"])}
            except ApiError as error:
                below = toast(error.message, "Not imported")
        else:
            selection.current = {"encoder": encoder} if encoder else {}
            above = {"delete": draw_deletion, "rename": draw_renaming}.get(action, lambda _: "")(encoder)
        return self._draw(selection, above, below)

    def _draw(self, selection: EncoderSelection, above: str = "", below: str = "") -> Any:
        """What is selected; no change if a newer event draws already, or has selected something else."""
        chosen, mine = selection.current, selection.turn + 1
        selection.turn = mine
        top, readme, rest = self.refresh(selection.checked, **chosen)
        if (selection.current, selection.turn) != (chosen, mine):
            return [gr.skip()] * 3
        return [above + top + below, gr.update(value=readme, visible=bool(readme)), rest]

    def _change(self, action: str, encoder: str, name: str) -> str:
        """One of ``CHANGES``. Returns: what is to be said of it. Raises: ApiError."""
        if action == "deletion":
            self.client.delete_encoder(encoder)
        elif action == "renaming":
            self.client.change_encoder(encoder, name=name)
        elif action == "evaluate":
            for each in encoder.split(",")[:2]:
                self.client.submit("evaluate", {"encoder": each})
            return notice("Two evaluations are queued; the Runs tab shows them.", "Submitted")
        else:
            self.client.change_encoder(encoder, pinned=action == "pin")
        return ""

    def refresh(self, checked: Sequence[str] = (), **current: str) -> tuple[str, str, str]:
        """(HTML, README, HTML below it) of the list, of one encoder, or of two. ``current``: ``PARAMETERS``."""
        encoder, other, lines = current.get("encoder"), current.get("with"), list[Json]()
        try:
            if not encoder:
                more = TRAIN
                if own_key(self.client).get("may_import"):
                    more += pick_form("import", "lcl-import", IMPORT)
                return draw_list(rank_encoders(self.client), checked, current.get("find", ""), more), "", ""
            if other:
                return draw_comparison(self.client, encoder, other, BACK), "", ""
            card = self.client.encoder_card(encoder)
        except ApiError as error:
            if error.status != 404:
                return unreachable_box(error, reopens=True), "", ""
            return f'<p class="lcl-head">{BACK}</p>{error_box(error.message, "Not found")}', "", ""
        if run := card["encoder"].get("run_id"):
            try:
                lines = self.client.metrics(run)
            except ApiError:  # the run is somebody else's, or gone
                run = None
        changes = may_change(own_key(self.client), card["encoder"].get("owner"))
        return draw_card(card, changes=changes), readable(card["about"]), draw_details(card, run, lines)


def readable(markdown: str) -> str:
    """Markdown without diagrams, and without attributes that the page's scripts act on."""
    return re.sub(r"(?i)(?<![-\w])data-", "data\u2011", markdown).replace("mermaid", "Mermaid")


def draw_deletion(encoder: str) -> str:
    """The question before an encoder is deleted."""
    lost = "Its files are removed, and collections that it embedded can be searched by item only."
    return question_box("Delete this encoder?", lost, (f"deletion:{encoder}", "Delete"), (f"encoder:{encoder}", "Keep"))


def draw_renaming(encoder: str, name: str = "") -> str:
    """The question for the new name of an encoder. ``name``: one that was typed before and refused."""
    inside = (
        f'<label>New name <input name="name" value="{esc(name)}" required maxlength="100" autocomplete="off" '
        'placeholder="letters, digits, . _ -"></label> <button type="submit">Rename</button> '
        f'<button type="button" data-pick="encoder:{esc(encoder)}">Keep</button>'
    )
    return pick_form(f"renaming:{encoder}", "lcl-question-box lcl-rename", inside)


def draw_list(encoders: Sequence[Json], checked: Sequence[str], find: str, more: str) -> str:
    """Search box, comparison of two, menu with ``more``, and a row for each encoder whose name has ``find``."""
    if not encoders:
        return EMPTY
    shown = [each for each in encoders if find.lower() in str(each.get("name") or "").lower()]
    box = f'<input type="search" name="find" value="{esc(find)}" placeholder="Find …" aria-label="Find">'
    rows = "".join(_row(each, str(each["id"]) in checked) for each in shown)
    note = f'{len(shown)} of {len(encoders)} encoders. <button type="button" data-pick="all:">Show all</button>'
    count = f" {len(checked)} of 2" if checked else ""
    return mark_view(
        f'<div class="lcl-head">{pick_form("find", "lcl-find", box)}'
        f'<button type="button" data-pick="compare:">Compare{count}</button>{_menu("More", more)}</div>'
        f'<p class="lcl-note">{note if find else ""}</p><ul class="lcl-encoders">{rows}</ul>',
        find=find,
    )


def _row(encoder: Json, checked: bool) -> str:
    key, name = esc(encoder["id"]), esc(encoder.get("name") or encoder["id"])
    figures = "".join(
        f'<div title="{esc(_about(row))}"><dt>{esc(row["title"])}</dt><dd>{metric_text(row["metric"], row["value"])}'
        "</dd></div>"
        for row in encoder.get("figures") or ()
    )
    size = (encoder.get("info") or {}).get("parameters")
    return (
        f'<li><input type="checkbox" data-pick="check:{key}" aria-label="Compare {name}"{" checked" * checked}>'
        f'<h3><button type="button" data-pick="encoder:{key}">{name}</button>'
        f"{_marks(encoder, encoder.get('badge'))}</h3>"
        f"<dl>{figures or '<div><dt>Not evaluated</dt></div>'}</dl>"
        f"<span>{number(size) if size else ''}</span>{_made(encoder)}</li>"
    )


def _about(row: Json) -> str:
    beside = (f"{name} {metric_text(row['metric'], row[name])}" for name in ("untrained", "chance") if row.get(name))
    where = " of ".join(filter(None, (str(row.get("split") or ""), row.get("dataset"))))
    return ", ".join(filter(None, (row["metric"], interval_text(row), where, *beside)))


def _marks(encoder: Json, badge: str | None) -> str:
    star = '<span title="pinned: offered first" aria-label="pinned">★</span>' if encoder.get("pinned") else ""
    return star + (f'<span class="lcl-badge lcl-badge--failed">{esc(badge)}</span>' if badge else "")


def _made(encoder: Json) -> str:
    made = str(encoder.get("created_at") or "")
    words = f"shipped with {__version__.rpartition('.')[0]}" if encoder.get("owner") == PRODUCT_OWNER else ago(made)
    return f'<time datetime="{esc(made)}" title="{esc(made)}">{words}</time>'


def _menu(words: str, inside: str, label: str = "") -> str:
    named = f' aria-label="{label}"' if label else ""
    return f'<details class="lcl-menu"><summary{named}>{words}</summary><div>{inside}</div></details>'


def draw_card(card: Json, *, changes: bool) -> str:
    """Name, actions, three figures, and how to use the encoder; ``changes``: the reader may rename or delete it."""
    encoder, key = card["encoder"], str(card["encoder"]["id"])
    info, name = encoder.get("info") or {}, str(encoder.get("name") or key)
    size = number(info["parameters"]) + " parameters" if info.get("parameters") else ""
    licence = f"licence {card['licence']}" if card.get("licence") else "licence: none given"
    facts = " · ".join(filter(None, (size, esc(licence), _made(encoder))))
    formats = EXPORTS if info.get("kind", "lcl") == "lcl" else {"lcl": "as it is"}
    base = f"encoder/{quote(key, safe='')}"
    downloads = f'<a href="{base}/README.md" download>Card (README.md)</a>' + "".join(
        f'<a href="{base}/{each}.tar" download>{words}</a>' for each, words in formats.items()
    )
    head = (
        f'<header class="lcl-head">{BACK}<h2>{esc(name)}{_marks(encoder, card.get("badge"))}</h2>'
        f'<a href="{esc(address(tab="try", encoder=key))}">Try</a>{_menu("Download", downloads)}'
        f'{_menu("⋯", _actions(encoder, changes=changes), "Actions")}</header><p class="lcl-note">{facts}</p>'
    )
    figures = draw_figures(card["main"]) if card["main"] else '<p class="lcl-note">Not evaluated yet.</p>'
    source = next((row["source"] for row in card["main"] if row.get("source")), "")
    figures += f'<p class="lcl-note">Figures of the {esc(source.replace("`", ""))}.</p>' if source else ""
    sides = f"<section>{figures}</section><section>{_use(card)}</section>"
    return mark_view(f'{head}<div class="lcl-card-sides">{sides}</div>', name, encoder=key)


def _use(card: Json) -> str:
    """A search with the encoder, and calls that use it."""
    name, on = str(card["encoder"].get("name")), str(card["encoder"]["id"])
    body = json.dumps({"model": name, "input": ["a red fish"]})
    calls = (
        f'from api.client import Client\n\nClient().embed_texts("{name}", ["a red fish"])\n\n'
        'curl -sS $API/v1/embeddings -H "Authorization: Bearer $KEY" \\\n'
        f"  -H 'Content-Type: application/json' -d '{body}'"
    )
    link = f'<a href="{esc(address(tab="runs", new="index", on=on))}">Index a dataset</a>'
    search = f'<p class="lcl-note">No collection yet. {link} to search with it.</p>'
    if card["collections"]:
        search = (
            '<form data-address class="lcl-find"><input type="hidden" name="collection" '
            f'value="{esc(card["collections"][0]["name"])}"><label>Search with it <input type="search" name="q" '
            'required maxlength="1000" placeholder="a red fish" enterkeyhint="search"></label></form>'
        )
    return search + fold("Use it: Python, curl", f"<pre><code>{esc(calls)}</code></pre>")


def _actions(encoder: Json, *, changes: bool) -> str:
    key = str(encoder["id"])
    links = {"Evaluate": address(tab="runs", new="evaluate", on=key), "Index": address(tab="runs", new="index", on=key)}
    inside = "".join(f'<a href="{esc(link)}">{words}</a>' for words, link in links.items())
    pin = {"unpin": "Unpin"} if encoder.get("pinned") else {"pin": "Pin"}
    verbs = {**pin, "rename": "Rename", "delete": "Delete"} if changes else {}
    inside += "".join(
        f'<button type="button" data-pick="{verb}:{esc(key)}">{words}</button>' for verb, words in verbs.items()
    )
    return f'<nav class="lcl-actions-of" aria-label="Actions">{inside}</nav><code>{esc(key)}</code>'


def draw_details(card: Json, run: str | None, lines: Sequence[Json]) -> str:
    """Below the README: curve, lineage, and folded evaluations, specification and files."""
    encoder, files = card["encoder"], (card["encoder"].get("info") or {}).get("files") or {}
    curve = "<h3>Curve</h3>" + draw_curves({"kind": "pretrain", "state": "succeeded"}, lines) if lines else ""
    sources = ((card["spec"].get("data") or {}).get("sources") or ()) if run else ()
    names = dict.fromkeys(str(each.get("dataset")) for each in sources)
    steps = [
        ", ".join(f'<a href="{esc(address(dataset=name))}">{esc(name)}</a>' for name in names),
        f'<a href="{esc(address(run=run))}">its run</a>' if run else "",
        f"<b>{esc(encoder.get('name'))}</b>",
        ", ".join(
            f'<a href="{esc(address(collection=each["name"]))}">{esc(each["name"])}</a> ({each["images"]:,} images)'
            for each in card["collections"]
        ),
    ]
    hashes = "".join(
        f"<tr><td>{esc(name)}</td><td><code>{esc(digest)}</code></td></tr>" for name, digest in files.items()
    )
    runs = dict.fromkeys((row["run_id"], row.get("dataset")) for row in card["figures"] if row.get("run_id"))
    measured = "".join(
        f'<li><a href="{esc(address(run=key))}">on {esc(name or "sample")}</a></li>' for key, name in runs
    )
    folded = {
        f"{len(runs)} evaluations": f"<ul>{measured}</ul>" if runs else "",
        f"All {len(card['figures'])} figures": draw_table(card["figures"]) if card["figures"] else "",
        "Spec": f"<pre><code>{esc(json.dumps(card['spec'], indent=2))}</code></pre>" if card["spec"] else "",
        f"{len(files)} files and hashes": html_table("Files", ("File", "sha256"), hashes) if files else "",
    }
    sections = "".join(fold(words, inside) for words, inside in folded.items() if inside)
    return f'{curve}<h3>Lineage</h3><p class="lcl-lineage">{" → ".join(filter(None, steps))}</p>{sections}'


def draw_comparison(client: Client, encoder: str, other: str, back: str) -> str:
    """Figures that both encoders have, below the button ``back``, or one that evaluates both. Raises: ApiError."""
    comparison = client.compare_encoders(encoder, other)
    left, right = comparison["left"], comparison["right"]
    title = f"{left['name']} and {right['name']}"
    head = f'<header class="lcl-head">{back}<h2>{esc(title)}</h2></header>'
    drawn = head + draw_differences(left, right, comparison["rows"])
    return mark_view(drawn, title, encoder=left["id"], **{"with": right["id"]})


def draw_differences(left: Json, right: Json, rows: Sequence[Json]) -> str:
    """A row for each compared metric: values and difference, with intervals."""
    if not rows:
        return (
            '<div class="lcl-empty" role="status"><strong>Not examined on the same data.</strong>'
            f'<p class="lcl-actions-of"><button type="button" data-pick="evaluate:{left["id"]},{right["id"]}">'
            "Evaluate both</button></p></div>"
        )
    columns = ("figure", "of", left["name"], right["name"], "difference", "p", "chance")
    body = "".join(map(_figure_row, rows))
    return html_table("Figures of both", columns, body, "compare") + (
        '<p class="lcl-note">Of the newest two evaluations with equal settings. Small: 95 % intervals, also of the '
        f"difference ({esc(right['name'])} minus {esc(left['name'])}) over the same images. p: sign flips, two-sided, "
        "of this row alone. Bold: the better one, where the interval of the difference does not hold 0.</p>"
    )


def _figure_row(row: Json) -> str:
    metric = str(row["metric"])
    bounds: Sequence[float] | None = row.get("interval")
    higher, lower = ("left", "right") if metric.endswith("rank") else ("right", "left")  # lower ranks are better
    better = None
    if bounds is not None and not bounds[0] <= 0 <= bounds[1]:
        better = higher if bounds[0] > 0 else lower
    cells = []
    for side in ("left", "right"):
        value = metric_text(metric, row.get(side))
        strong = f"<b>{value}</b>" if side == better else value
        cells.append(f"<td>{strong}{_interval(metric, row.get(f'{side}_interval'))}</td>")
    p = row.get("p")
    p_text = "" if p is None else "&lt; .001" if p < 0.001 else f"{p:.3f}"
    sign = "+" if (row.get("difference") or 0) > 0 else ""
    difference = "" if row.get("difference") is None else sign + metric_text(metric, row["difference"])
    reason = f"<small>{esc(row['reason'])}</small>" if row.get("reason") else ""
    split = " · ".join(esc(row[name]) for name in ("split", "variant") if row.get(name))
    return (
        f'<tr><th scope="row">{esc(metric)}</th><td>{esc(figure_label(row))}<small>{split}</small></td>'
        f"{''.join(cells)}<td>{difference}{_interval(metric, bounds)}{reason}</td>"
        f"<td>{p_text}</td><td>{metric_text(metric, row.get('chance'))}</td></tr>"
    )


def _interval(metric: str, bounds: Sequence[float] | None) -> str:
    return "" if not bounds else f"<small>{' to '.join(metric_text(metric, bound, '') for bound in bounds)}</small>"
