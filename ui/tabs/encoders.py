"""Encoders tab: a card for each encoder with its properties and metrics, one with all of them, or two side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import Json
from ui.addresses import address, mark_view, read_address
from ui.common import (
    EACH_COUNTS,
    FOCUS_QUESTION_SCRIPT,
    LAST_COUNTS,
    SILENT_EVENT,
    PageSelection,
    html_pane,
    unreachable_box,
)
from ui.figures import draw_figures, draw_table, main_figures, number
from ui.html import (
    PICK_SCRIPT,
    ago,
    definition_list,
    empty_state,
    error_box,
    esc,
    heading,
    pick_form,
    question_box,
    toast,
)
from ui.ranking import RankedEncoder, measured_rows, rank_encoders
from ui.tabs.encoder_comparison import draw_comparison

PARAMETERS = ("encoder", "with", "q", "item")
SHOWN = 3
COMPARED = 12  # encoders that one can be compared with by a click, best first
# export formats of LCL encoders -> labels; other encoders are exported as they are
EXPORTS = {"lcl": "lcl", "huggingface": "transformers", "timm": "timm", "onnx": "ONNX"}
NOT_EVALUATED = '<p class="lcl-note">Not evaluated yet.</p>'
CHANGES = ("pin", "unpin", "renaming", "deletion")
BACK = '<p class="lcl-back"><button type="button" data-pick="all:">‹ All encoders</button></p>'
EMPTY = empty_state("No encoder yet", "Submit a pre-training run in the Runs tab; its encoder is listed here.")


@dataclass
class EncoderSelection(PageSelection[dict[str, str]]):
    """What is shown, as ``PARAMETERS`` of the address: without any all encoders. ``turn``: of the newest drawing."""

    turn: int = 0


class EncodersTab:
    title = "Encoders"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.selection = gr.State(EncoderSelection({}))
        html_pane(heading("Encoders", "Every encoder that a run made or that was imported."))
        self.cards = html_pane(js_on_load=PICK_SCRIPT, elem_id="encoders")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        for event in (tab.select, navigation.select):
            event(self.open_address, self.selection, self.cards, **SILENT_EVENT | LAST_COUNTS)
        self.cards.select(self.select, self.selection, self.cards, **SILENT_EVENT | EACH_COUNTS).then(
            None, js=FOCUS_QUESTION_SCRIPT
        )

    def open_address(self, selection: EncoderSelection, request: gr.Request) -> Any:
        """The encoder of ``?encoder=A``, two with ``&with=B``, else all; on another tab's address what was shown."""
        if address := read_address(request, "encoders"):
            selection.current = {name: address[name] for name in PARAMETERS if name in address}
        return self._draw(selection)

    def select(self, selection: EncoderSelection, event: gr.EventData) -> Any:
        """A card was opened, the one encoder was closed, or is to be pinned, renamed or deleted."""
        action, _, value = str(event.pick).partition(":")
        encoder, _, form = value.partition(":")
        name = str(json.loads(form)["text"]) if action == "renaming" else ""
        if action in CHANGES:
            try:
                self._change(action, encoder, name)
            except ApiError as error:
                again = draw_renaming(encoder, name) if action == "renaming" else ""
                return self._draw(selection, above=again, below=toast(error.message))
            if action == "deletion" and selection.current.get("encoder") == encoder:
                selection.current = {}
            return self._draw(selection)
        if action in ("ask", "item"):
            query = {"item": value} if action == "item" else {"q": str(json.loads(value)["text"])}
            selection.current = {name: selection.current[name] for name in ("encoder", "with")} | query
            return self._draw(selection)
        selection.current = {"encoder": encoder} if encoder else {}
        question = {"delete": draw_deletion, "rename": draw_renaming}.get(action, lambda _: "")(encoder)
        return self._draw(selection, above=question)

    def _draw(self, selection: EncoderSelection, above: str = "", below: str = "") -> Any:
        """What is selected; no change if a newer event draws already, or has selected something else."""
        chosen, mine = selection.current, selection.turn + 1
        selection.turn = mine
        drawn = above + self.refresh(**chosen) + below
        return drawn if (selection.current, selection.turn) == (chosen, mine) else gr.skip()

    def _change(self, action: str, encoder: str, name: str) -> None:
        """One of ``CHANGES``. Raises: ApiError."""
        if action == "deletion":
            self.client.delete_encoder(encoder)
        elif action == "renaming":
            self.client.change_encoder(encoder, name=name)
        else:
            self.client.change_encoder(encoder, pinned=action == "pin")

    def refresh(self, encoder: str = "", **others: str) -> str:
        """All encoders, best first, or one with all of its figures, or two. ``others``: further ``PARAMETERS``."""
        try:
            ranked = rank_encoders(self.client)
            collections = self.client.collections() if ranked else []
        except ApiError as error:
            return unreachable_box(error, reopens=True)
        if encoder:
            return BACK + self._draw_chosen(encoder, others, ranked, collections)
        cards = [draw_encoder(each.encoder, each.rows, badge=each.badge, collections=collections) for each in ranked]
        return f'<div class="lcl-encoders">{"".join(cards)}</div>' if cards else EMPTY

    def _draw_chosen(
        self, encoder: str, others: Mapping[str, str], ranked: Sequence[RankedEncoder], collections: Sequence[Json]
    ) -> str:
        known = {name: each for each in reversed(ranked) for name in (each.encoder.get("name"), each.id)}
        for name in (encoder, others.get("with", encoder)):
            if name not in known:
                return error_box(f"There is no encoder {name!r}.", "This encoder cannot be shown")
        each = known[encoder]
        if "with" in others:
            return draw_comparison(self.client, each.encoder, known[others["with"]].encoder, others)
        card = draw_encoder(each.encoder, each.rows, badge=each.badge, collections=collections, alone=True)
        links = "".join(
            f'<a href="{esc(address(encoder=each.id, **{"with": other.id}))}">{esc(other.label)}</a>'
            for other in ranked[: COMPARED + 1]
            if other.id != each.id
        )
        compare = (
            f'<nav class="lcl-links" aria-label="Compare with"><span>Compare with</span>{links}</nav>' if links else ""
        )
        return mark_view(card + compare, str(each.encoder.get("name") or each.id), encoder=each.id)


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


def draw_encoder(
    encoder: Json,
    rows: Sequence[dict[str, Any]],
    *,
    badge: str = "",
    collections: Sequence[Json] = (),
    alone: bool = False,
) -> str:
    """Name, sizes, main metrics and actions of an encoder; ``alone``: with all metrics as a table."""
    about = {**(encoder.get("info") or {}), **encoder}
    size = about.get("image_size")
    listed = [
        ("Parameters", number(about["parameters"]) if about.get("parameters") else ""),
        ("Images", f"{size} × {size} px" if size else ""),
        ("Vector", f"{about['embed_dim']} numbers" if about.get("embed_dim") else ""),
        ("Images seen", number(about["images_seen"]) if about.get("images_seen") else ""),
        ("Hash", str(about.get("hash") or "")[:12]),
        ("Made", ago(about.get("created_at"))),
    ]
    measured = measured_rows(rows)
    if alone:  # all metrics of its evaluations, and below all those of its model card
        parts = (measured, [row for row in rows if row not in measured])
        below = "".join(draw_table(part) + _draw_source(part) for part in parts if part) or NOT_EVALUATED
    else:
        figures = main_figures(measured or rows)[:SHOWN]
        below = draw_figures(figures) if figures else NOT_EVALUATED
        below += _draw_source(measured or rows)
    name = esc(encoder.get("name") or encoder["id"])
    title = name if alone else f'<button type="button" data-pick="encoder:{esc(encoder["id"])}">{name}</button>'
    mark = '<span class="lcl-badge" title="offered first by every form">Pinned</span>' if encoder.get("pinned") else ""
    mark += f'<span class="lcl-badge lcl-badge--failed">{esc(badge)}</span>' if badge else ""
    own = [each for each in collections if each.get("encoder_id") == encoder["id"]]
    return (
        f'<article class="lcl-encoder"><header><h3>{title}{mark}</h3><code>{esc(encoder["id"])}</code></header>'
        f"{definition_list(listed)}{below}{draw_actions(encoder, own, alone)}"
        f"{draw_exports(encoder['id'], str(about.get('kind', 'lcl')))}</article>"
    )


def _draw_source(rows: Sequence[dict[str, Any]]) -> str:
    """Where the figures come from, if not from evaluations of this service."""
    source = rows[0].get("source") if rows else None
    words = re.sub("`([^`]*)`", r"<code>\1</code>", esc(f"{source[0].upper()}{source[1:]}.")) if source else ""
    return f'<p class="lcl-note">{words}</p>' if words else ""


def draw_exports(encoder: str, kind: str) -> str:
    """Links to tar files of the encoder in each format."""
    address = f"encoder/{quote(encoder, safe='')}"
    formats = EXPORTS if kind == "lcl" else {"lcl": "as it is"}
    links = "".join(f'<a href="{address}/{name}.tar" download>{words}</a>' for name, words in formats.items())
    return f'<div class="lcl-links lcl-exports"><span>Export</span>{links}</div>'


def draw_actions(encoder: Json, collections: Sequence[Json], alone: bool = False) -> str:
    """Links to what can be done with an encoder; ``collections``: those that it has embedded, newest first."""
    key, run = str(encoder["id"]), encoder.get("run_id")
    links = {
        "Evaluate": address(tab="runs", new="evaluate", on=key),
        "Index": address(tab="runs", new="index", on=key),
        "Search": address(collection=str(collections[0]["id"]), captions="0") if collections else "",
        "Try": address(tab="try", encoder=key),
        "Its run": address(run=str(run)) if run else "",
    }
    inside = "".join(f'<a href="{esc(link)}">{words}</a>' for words, link in links.items() if link)
    changes = {"unpin" if encoder.get("pinned") else "pin": "Unpin" if encoder.get("pinned") else "Pin"}
    changes |= {"rename": "Rename", "delete": "Delete"} if alone else {}
    buttons = "".join(
        f'<button type="button" data-pick="{verb}:{esc(key)}">{words}</button>' for verb, words in changes.items()
    )
    return f'<nav class="lcl-links lcl-actions-of" aria-label="Actions">{inside}{buttons}</nav>'
